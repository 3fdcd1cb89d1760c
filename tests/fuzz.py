"""Anything where a program of ours reads a file or a key: the right answer or one sentence, and no file elsewhere.

    python -m tests.fuzz overrides --minutes 10     # of CPU time; ends with the smallest input that breaks something

tests/test_fuzz.py makes a few hundred trials of each kind. Bytes in shards and texts: tests/test_data_fuzz.py.
"""

import argparse
import functools
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from rich.console import Console

from conventions.config_keys import CONFIGS, flatten
from conventions.keywords import bind, construct
from data.plan import check_data
from harness import tracker
from harness.command_line import composed
from harness.config import config_hash, parse, run_dir, whole_numbers
from harness.schedule import build_schedule
from harness.sweep.watch import RunReader, row_of
from harness.words import flags_first
from judge.claims.claim_file import read_claim
from judge.claims.verdict import verify
from judge.claims.words import as_json
from judge.comparison import compare
from judge.oddities import oddities
from judge.readers import read
from judge.readers.adoption import Wish, adopt, write
from judge.readers.series import runs_in, without_repeats
from judge.readers.units import meaning_of
from judge.records import find_runs
from models.plan import check_model
from optimizers.plan import check_optimizer
from scripts.pages import claim_table
from scripts.report import render
from scripts.speedup import show
from tests.foreign import TEXTS, write_mlflow_database, write_trainer_state
from tests.study import write_run
from tests.test_data_fuzz import JSON, TEXT, harmed
from tests.trial import alone, changed, refused

Data = Any  # of hypothesis: draws from strategies

# Overrides.


@functools.cache
def keys() -> list[str]:
    found = {"optimizer._target_", "nothing.here", "model", "data", "optimizer", "schedule", "tracker", "launcher"}
    for path in CONFIGS.rglob("*.yaml"):
        group = path.parent.name
        values = yaml.safe_load(path.read_text())
        if group in ("optimizer", "model", "data", "schedule", "tracker"):
            found |= {f"{group}.{key}" for key in flatten(values)}
        elif path.stem == "train":
            found |= {key for key in flatten(values) if not key.startswith(("hydra", "defaults"))}
    return sorted(found)


WORDS = st.sampled_from(
    ["null", "true", "auto", "1e5", "10.0", "-1", "0", "[1,2]", "[a", "{a:1}", "a,b", "'", '"a', "$HOME", "${seed}",
     "{}", "${oc.env:HOME}", "~", "a=b", "@x", "*", "..", "../..", "/", "é", "\\", "\n", "1_0", "range(1,3)",
     "choice(1)", "%s", "torch.optim.SGD", "torch.optim", "os.system"]
)  # fmt: skip


def overrides(data: Data) -> None:
    """Keys and values of a command line, to where the run would begin."""
    prefixes = st.sampled_from(["", "", "", "+", "++", "~"])
    word = st.tuples(prefixes, st.sampled_from(keys()) | TEXT, st.sampled_from(["=", "=", ""]), WORDS | TEXT)
    words = ["device=cpu", *map("".join, data.draw(st.lists(word, min_size=1, max_size=4)))]
    with alone() as here:

        def work() -> None:
            values = composed(flags_first(words))
            cfg = parse(values)
            values = whole_numbers(values, cfg)
            place = run_dir(cfg, config_hash(values))
            if cfg.run_dir is None:
                assert place.resolve().parent.parent == here / "results" / "runs"
            check_model(cfg.model, cfg.context, cfg.seed)
            check_optimizer(cfg.optimizer, cfg.allow_targets, "meta")
            construct(build_schedule, cfg.schedule, "schedule", cfg.steps)
            check_data(cfg.data)
            bind(tracker.find(cfg.tracker["name"]), cfg.tracker, "tracker", ["folder", "config", "manifest"])

        refused(work)
        assert not list(here.iterdir())


# Claims.


@functools.cache
def claims() -> list[tuple[str, dict[str, Any]]]:
    files = sorted((CONFIGS / "claim").glob("*.yaml"))
    return [(path.read_text(), yaml.safe_load(path.read_text())) for path in files]


def claim(data: Data) -> None:
    """The YAML of a claim, to the verdict on no runs."""
    text, values = data.draw(st.sampled_from(claims()))
    if data.draw(st.booleans()):
        content = yaml.safe_dump(data.draw(changed(values)), sort_keys=False).encode("utf-8", "surrogatepass")
    else:
        content = data.draw(harmed(st.just(text.encode())))
    with alone() as here:
        (here / "mine.yaml").write_bytes(content)

        def work() -> None:
            read_back = read_claim(here / "mine.yaml")
            for name, scale in read_back.scales.items():
                verdict = verify(read_back, name, list(scale.parts), scale.seeds, here / "runs")
                json.dumps(as_json(verdict), allow_nan=False)
                claim_table.render(verdict, "markdown")

        refused(work)
        assert [path.name for path in here.iterdir()] == ["mine.yaml"]


# Run folders.


@functools.cache
def study() -> dict[str, dict[str, bytes]]:
    """The files of two runs of two lengths, by folder."""
    with tempfile.TemporaryDirectory() as place:
        for steps in (1000, 2000):
            for optimizer in ("adamw", "lion"):
                write_run(Path(place), optimizer, steps)
        return {
            folder.name: {path.name: path.read_bytes() for path in folder.iterdir()}
            for folder in sorted(Path(place).iterdir())
        }


def judged(here: Path, data: Data, name: str, file: str, content: bytes) -> None:
    """Compare the study in which a file of one run has another content."""
    for folder, files in study().items():
        (here / "study" / folder).mkdir(parents=True)
        for each, original in files.items():
            (here / "study" / folder / each).write_bytes(content if (folder, each) == (name, file) else original)

    def work() -> None:
        row_of(name, RunReader(here / "study" / name).read())
        comparison = compare(find_runs(here / "study"), "adamw")
        json.dumps([row.json() for row in comparison.rows], allow_nan=False)
        show(comparison, Console(file=io.StringIO()))
        oddities(comparison)
        if data.draw(st.integers(0, 19)) == 7:  # a page takes a second
            render(comparison)

    refused(work)
    assert [path.name for path in here.iterdir()] == ["study"]


def metrics(data: Data) -> None:
    """The metrics.jsonl of a run, to the comparison and its page."""
    name = data.draw(st.sampled_from(sorted(study())))
    rows = [json.loads(line) for line in study()[name]["metrics.jsonl"].splitlines()]
    how = data.draw(st.integers(0, 2))
    if how == 0:
        content = data.draw(harmed(st.just(study()[name]["metrics.jsonl"])))
    else:
        rows = data.draw(changed(rows)) if how == 1 else data.draw(st.lists(changed(rows[0]) | JSON, max_size=4))
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    with alone() as here:
        judged(here, data, name, "metrics.jsonl", content)


def manifests(data: Data) -> None:
    """The manifest or the config of a run, to the comparison and its page."""
    name = data.draw(st.sampled_from(sorted(study())))
    file = data.draw(st.sampled_from(["manifest.json", "config.yaml"]))
    original = study()[name][file]
    if data.draw(st.integers(0, 3)) == 0:
        content = data.draw(harmed(st.just(original)))
    elif file == "manifest.json":
        content = json.dumps(data.draw(changed(json.loads(original)))).encode()
    else:
        content = yaml.safe_dump(data.draw(changed(yaml.safe_load(original)))).encode("utf-8", "surrogatepass")
    with alone() as here:
        judged(here, data, name, file, content)


# Logs of other trainers.


@functools.cache
def logs() -> list[tuple[str, bytes]]:
    csv = b"step,loss,name\n" + b"".join(b"%d,%d.5,a\n" % (step, 9 - step) for step in range(5))
    lines = b"".join(b'{"step": %d, "val": {"loss": %d.5}}\n' % (step, 9 - step) for step in range(5))
    with tempfile.TemporaryDirectory() as place:
        state = write_trainer_state(Path(place) / "trainer_state.json").read_bytes()
        base = write_mlflow_database(Path(place) / "mlflow.db").read_bytes()
    texts = [(f"{number}.log", text.encode()) for number, text in enumerate(TEXTS.values())]
    return [*texts, ("a.csv", csv), ("a.jsonl", lines), ("trainer_state.json", state), ("mlflow.db", base)]


def foreign(data: Data) -> None:
    """A log of another trainer, to the study that is adopted from it."""
    name, content = data.draw(st.sampled_from(logs()))
    content = data.draw(harmed(st.just(content)) | st.binary(max_size=300))
    if data.draw(st.booleans()):  # twice the same kind of line, with other numbers
        content += data.draw(harmed(st.just(content)))
    patterns = st.sampled_from(["=new", "(.*)", "{name}", "{nothing}", "(", "=../../x", "=", r"(\d+)"])
    with alone() as here:
        (here / name).write_bytes(content)

        def work() -> None:
            found = []
            for log in read(name):
                meaning = meaning_of(log, {"step": "step", "val/loss": "loss"} if name == "a.csv" else {}, None)
                found += runs_in(log, meaning, None)
            kept, _ = without_repeats(found)
            seeds = data.draw(st.sampled_from([None, "=1", "{name}", r"(\d)"]))
            at = data.draw(st.sampled_from([None, "last", "300", "x"]))
            adopted, _ = adopt(kept, Wish("theirs", data.draw(patterns), seeds, at))
            write(adopted, here / "theirs")
            find_runs(here / "theirs")

        refused(work)
        assert {path.name for path in here.iterdir()} <= {name, "theirs"}


TARGETS: dict[str, Callable[[Data], None]] = {
    each.__name__: each for each in (overrides, claim, metrics, manifests, foreign)
}


def trials(target: Callable[[Data], None], number: int, first: int | None = None) -> None:
    """Make so many trials of a kind: always the same ones, or those of a seed."""
    test = given(st.data())(lambda data: target(data))
    quiet = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
    if first is None:
        return settings(max_examples=number, derandomize=True, phases=[Phase.generate, Phase.shrink], **quiet)(test)()
    return seed(first)(settings(max_examples=number, **quiet)(test))()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--minutes", type=float, default=10.0, help="of CPU time")
    options = parser.parse_args()
    made = 0
    while time.process_time() < 60 * options.minutes:
        trials(TARGETS[options.target], 100, made)
        made += 100
    print(f"{options.target}: {made:,} trials in {time.process_time() / 60:.1f} minutes of CPU time")


if __name__ == "__main__":
    main()
