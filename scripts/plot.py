"""Writes the figures of a study one by one, for papers and slides: the same runs give the same bytes.

    python -m scripts.plot results/runs/my_study --output figures
    python -m scripts.plot results/runs/my_study --output figures --format pdf svg --scale log-log

Expect a file for each figure that the runs have something for: curves-steps, curves-flops, curves-seconds (each with
its scale), ladder, learning-rates, tuning, parts-seconds, parts-flops, outside, memory-state_per_parameter, memory-peak
and shares. Letters in SVG are shapes, and look the same everywhere; in PDF they are whole fonts; PNG has 300 dots per
inch. scripts/report.py shows the same figures on one page.
"""

from collections.abc import Iterator, Mapping, Sequence

from conventions.paths import path_argument
from conventions.run_format import AXES
from conventions.sentence import Arguments, one_sentence
from judge.comparison import Comparison, compare
from judge.records import find_runs
from judge.tuning.trials import Tuning, tuning_of
from scripts.pages import bars, figures, tuning_figure
from scripts.pages.canvas import SILENT, Drawing, by_optimizer


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Arguments.of("scripts.plot", __doc__)
    parser.add_argument("folder", type=path_argument, help="folder with runs anywhere below it")
    parser.add_argument("--output", type=path_argument, required=True, help="folder for the files, made if need be")
    parser.add_argument("--format", nargs="+", choices=sorted(SILENT), default=["svg"], help="default: svg")
    parser.add_argument("--scale", choices=[*figures.SCALES], default="linear", help="of the curves (default: linear)")
    parser.add_argument("--baseline", default="adamw", help="what the others are held against (default: adamw)")
    options = parser.parse_args(arguments)
    with one_sentence():
        comparison, tunings = compare(find_runs(options.folder), options.baseline), tuning_of(options.folder.resolve())
        drawings = list(drawn(comparison, tunings, options.scale))
        if not drawings:
            raise ValueError(f"{options.folder} has no finished run of {options.baseline} to draw: let one end first")
        options.output.mkdir(parents=True, exist_ok=True)
        for drawing in drawings:
            for kind in dict.fromkeys(options.format):
                path = options.output / f"{drawing.name}.{kind}"
                drawing.save(path)
                print(path)


def drawn(comparison: Comparison, tunings: Mapping[str, Tuning], scale: str = "linear") -> Iterator[Drawing]:
    """Yield every figure that the runs have something for."""
    yield from filter(
        None,
        [
            *(figures.curves(comparison, axis, scale) for axis in AXES),
            figures.ladder(comparison),
            figures.learning_rates(comparison),
            tuning_figure.learning_rates(tunings, "tuning", by_optimizer(comparison)),
            bars.parts(comparison, "seconds"),
            bars.parts(comparison, "flops"),
            bars.outside(comparison)[0],
            bars.memory(comparison, "state_per_parameter", "state, bytes per parameter"),
            bars.memory(comparison, "peak", "peak memory, GB", 1e-9),
            bars.shares(comparison)[0],
        ],
    )


if __name__ == "__main__":
    main()
