"""Tables of what is at hand in another form: a folder of runs, of one model or of several, or a table of cells."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from conventions.grid import Grid
from conventions.quantity import loss
from judge.arms import best_arm, find_arms, group_arms
from judge.comparison import Comparison
from judge.public.cell import Cell
from judge.readers.log import source_of
from judge.readers.table import read_table
from judge.records import Run, find_runs
from judge.scale import cells_of

CHINCHILLA = 20  # training tokens per parameter, all of them counted, as in Hoffmann et al. 2022


def cells_by_column(source: Path, columns: Mapping[str, str]) -> tuple[dict[str, list[Cell]], str]:
    """Return the cells of a folder of runs, or of a table by each of its columns of losses, and where they are from.

    columns: of the optimizer, size, parameters, tokens and budget; loss: one or several with commas between.
    """
    if source.is_dir():
        return {"final": cells_of_runs(find_runs(source))}, f"runs of {source.name}"
    lines, of = read_table(source), source_of(source, "table").sha256
    cells = {each: list(cells_of(lines, {**columns, "loss": each}, str(source))) for each in columns["loss"].split(",")}
    return cells, ", ".join(filter(None, [source.name, columns.get("repository"), f"sha256 {of}"]))


def cells_of_runs(runs: Sequence[Run]) -> list[Cell]:
    """Return a cell for each optimizer, model and length, of its best arm there.

    Raises ValueError if some finished run does not know its parameters or the tokens of an update.
    """
    by_model: dict[str, list[Run]] = {}
    for run in runs:
        by_model.setdefault(str(run.section("model").get("name")), []).append(run)
    cells = []
    for model, own in by_model.items():
        arms = group_arms(own)
        for name in sorted({arm.optimizer for arm in arms}):
            siblings = find_arms(arms, name)
            for length in sorted({length for arm in siblings for length in arm.lengths}):
                arm = best_arm([each for each in siblings if length in each.lengths], length)
                run = arm.finished(length)[0]
                parameters = _count(run, "parameters", run.known("parameters", "total") or run.config.get("parameters"))
                tokens = _count(run, "batch.tokens", run.known("tokens_per_step"))
                total = length * tokens
                budget = f"{total / parameters / CHINCHILLA:.3g}"
                losses = tuple(arm.losses(length).tolist())
                cells.append(Cell(name, model, parameters, total, losses, budget, length, trials=len(siblings)))
    return cells


def _count(run: Run, key: str, value: object) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{run.folder} has no number of {key}: adopt the runs again with --set {key}=N")
    return value


def adopted_tables(comparison: Comparison) -> tuple[list[Grid], list[str]]:
    """Return a table of an adopted study's arms, by isoloss where that rule was asked, and where its runs are from."""
    rule = "isoloss" if any(row.rule == "isoloss" for row in comparison.rows) else "matched"
    ratios = {row.arm: row for row in comparison.rows if row.rule == rule and row.axis == "steps"}
    rows = []
    for each in comparison.standings:
        own = ratios.get(each.arm.label)
        ratio = [str(own.speedup), own.speedup.interval, own.words] if own else ["", "", ""]
        length = f"{each.length:,}" if each.length else "none"
        rows.append([each.arm.label, length, str(each.seeds), loss(each.loss, each.spread), *ratio])
    files = {
        (Path(each["file"]).name, each["sha256"]): [run.known("origin", key) for key in ("repository", "commit")]
        for run in comparison.runs
        for each in run.known("origin", "sources") or ()
    }
    origins = [", ".join([name, *filter(None, where), f"sha256 {of}"]) for (name, of), where in sorted(files.items())]
    notes = dict.fromkeys(note for row in ratios.values() for note in row.notes if row.speedup.known)
    notes |= dict.fromkeys(note for note in comparison.footnotes if "†" in note)  # what the dagger means
    header = ["arm", "updates", "seeds", "final loss", f"{rule}, in updates", "95 % interval", "verdict"]
    return [Grid(f"Speed-up over {comparison.baseline}.", header, rows)], [*origins, *notes]
