"""bench_suite's optimizers: one by one, each in its own time, beside a whole step."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import origin
from scripts import bench_suite
from scripts.bench import drift
from scripts.suite import curves, exactness, steps, updates
from scripts.suite import optimizers as suite_optimizers
from scripts.suite.folder import Deadline, Folder
from tests.test_bench_suite import BED

DRIFT = drift.Bed(layers=1, heads=2, width=32, context=16, sequences=2, updates=12, device="cpu")
TINY = ["--rehearse", "--minutes", "2", "--device", "cpu"]


def read(folder):
    return json.loads((folder / "optimizers.json").read_text())


def row_of(model, optimizer, implementation="halfstep", ms=2.0):
    return {"optimizer": optimizer, "implementation": implementation, "plain_ms": ms, "refresh_ms": None,
            "amortised_ms": ms, "ratio": {"median": 1.0, "low": 1.0, "high": 1.0}, "worst_over_mean": 1.0,
            "worst_ms": 3 * ms, "median_ms": ms, "rounds": 5, "floor_ms": ms / 4, "keywords": {}, "compiled": False,
            "state_bytes_per_parameter": 8.0, "hooks_ms_per_step": None}  # fmt: skip


def plan_of(only, commit=None, device="cpu", models=("gpt2_pico",)):
    words = only.split(",") if only else []
    return suite_optimizers.Plan(list(models), words, 256, 8, 8, 0.1, 1, [], device, commit, DRIFT, BED)


@pytest.fixture
def asked(monkeypatch):
    """The units that were asked for, answered by what `answers` has of their optimizer: rows, or what to raise."""
    asked: list[tuple[str, steps.Way]] = []

    def measure(unit, *_):
        asked.append((unit.optimizer, unit.way))
        answer = measure.answers.get(unit.optimizer, steps.Found([row_of(unit.model, unit.optimizer)], []))
        if isinstance(answer, Exception):
            raise answer
        return answer

    measure.answers = {}
    asked_of = type("Asked", (), {"units": asked, "answers": measure.answers})
    monkeypatch.setattr(steps, "measure", measure)
    monkeypatch.setattr(curves, "measure", lambda *_: 0)
    monkeypatch.setattr(curves, "left", lambda *_: 0)
    monkeypatch.setattr(exactness, "asked", lambda *_: [])
    monkeypatch.setattr(updates, "beyond_steps", lambda names: [])
    return asked_of


def test_optimizers_one_by_one(tmp_path, asked, capsys):
    asked.answers["lamb"] = ValueError("halfstep: out of memory")
    asked.answers["sgd"] = asked.answers["muon"] = steps.Found([], [], cut=True)
    line = ["--part", "optimizers", *TINY, "--output", str(tmp_path), "--only", "sgd,lion,lamb,muon"]
    bench_suite.main(line)
    assert asked.units == [("lion", {}), ("muon", {}), ("lamb", {}), ("sgd", {})]
    assert capsys.readouterr().out.strip().endswith("2 left: the same command goes on")
    asked.units.clear()
    bench_suite.main(line)  # muon takes a whole call
    assert asked.units == [("muon", {}), ("sgd", {})]
    del asked.answers["sgd"]
    asked.units.clear()
    bench_suite.main(line)
    assert asked.units == [("sgd", {})]
    rows = read(tmp_path)["rows"]
    assert [row["optimizer"] for row in rows] == ["lion", "sgd"]
    assert rows[0]["share_of_step"] is None  # no step was measured
    shown = capsys.readouterr().out
    assert "| 0.50 | 4.00 | 1.00 |  | no whole update was measured yet |" in shown
    assert "- gpt2_pico, muon: did not end within 2 minutes" in shown
    assert "- gpt2_pico, lamb: halfstep: out of memory" in shown
    assert "What was aimed at" not in shown  # of a CPU
    (tmp_path / "throughput.json").write_text(json.dumps({
        "identity": {"tokens": 1024, "context": 128, "vocabulary": 256, "dtype": "torch.float32",
                     "device": read(tmp_path)["identity"]["device"]},
        "rows": [{"model": "gpt2_pico", "system": "halfstep", "variant": "plain", "tokens_per_second": 10_240.0}],
    }))  # fmt: skip
    bench_suite.main(line)
    assert read(tmp_path)["rows"][0]["share_of_step"] == pytest.approx(0.002 / 0.1)


def test_what_is_worth_most_comes_first(tmp_path, monkeypatch):
    """At the first model; one whole update among the steps, those that take a search for their size last."""
    plan = plan_of("", device="cuda", models=["gpt2_125m", "gpt2_355m"])
    book = {key: [] for key in ("rows", "failures", "drift", "curves")}
    work = suite_optimizers.Work(plan, book, Folder(tmp_path), Deadline(9), print)
    told = []

    def item(kind):
        return lambda self, *what: told.append((kind, *what))

    for kind in ("step", "update", "drift", "curves"):
        monkeypatch.setattr(suite_optimizers.Work, kind, item(kind))
    monkeypatch.setattr(suite_optimizers, "Match", lambda *given: SimpleNamespace(variant=given[-1]))
    whole = plan.updates(Folder(tmp_path))
    work.items(whole, {}, tmp_path)

    def short(kind, *what):
        if kind == "step":
            return f"{exactness.shown(what[0].optimizer, what[0].way)} {what[0].model}"
        return f"{kind} {what[0].variant}" if kind == "update" else kind

    order = [short(*each) for each in told]
    quick = "soap stagger=true projection_dtype=tf32"
    first = ["soap", f"{quick} qr=cholesky", "sophia_g", "update", "lion", "muon", "shampoo", "adahessian", "mkor",
             "kfac", quick, "soap stagger=true", f"{quick} qr=cholesky gram=triton"]  # fmt: skip
    assert [each.removesuffix(" gpt2_125m").partition(" optimizer=")[0] for each in order[: len(first)]] == first
    whole_updates = [each for each in order if each.startswith("update")]
    assert [each.partition("=")[2] for each in whole_updates] == [
        "sophia_g", "kfac", "mkor", "mkor_h", "adahessian", "sophia_h"
    ]  # fmt: skip
    rest = [each.partition(" ")[0] if each.startswith("update") else each.rpartition(" ")[2] for each in order]
    kinds = list(dict.fromkeys(rest[rest.index("update") + 1 :]))
    assert kinds == ["gpt2_125m", "update", "drift", "gpt2_355m", "curves"]
    assert len(order) == len(set(order)) + order.count("drift") - 1


def test_a_reference_that_breaks_is_told_and_kept_and_our_row_stands(tmp_path, asked):
    note = {"implementation": "authors", "error": "RuntimeError: another torch"}
    asked.answers["lion"] = steps.Found([row_of("gpt2_pico", "lion")], [note])
    for commit in ("one", "two"):  # where ours is there it is not tried again
        assert suite_optimizers.run(plan_of("lion", commit), Folder(tmp_path), Deadline(9), print) == 0
        assert read(tmp_path)["failures"] == [
            {"model": "gpt2_pico", "optimizer": "lion", "way": {}, "commit": "one", **note}
        ]
    assert len(asked.units) == 1
    assert "- gpt2_pico, lion by authors: RuntimeError: another torch\n" in (tmp_path / "optimizers.md").read_text()


def test_beside_a_whole_step(tmp_path):
    """Hooks see every token of an update: what they cost on a pass counts for each of its passes."""
    plain = {"model": "gpt2_pico", "system": "halfstep", "variant": "plain", "tokens_per_second": 10_240.0}
    held = {"identity": {"tokens": 1024}, "rows": [plain]}
    (tmp_path / "throughput.json").write_text(json.dumps(held))
    about = {"model": "gpt2_pico", "way": {}, "commit": "abc", "hooks_ms_per_step": 1.0}
    rows = [{**row_of("gpt2_pico", "kfac", ms=10.0), **about}, {**row_of("gpt2_pico", "kfac", "theirs", 10.0), **about},
            {**row_of("gpt2_pico", "kfac", ms=10.0), **about, "way": {"stagger": "true"}}]  # fmt: skip
    identity = {"context": 128, "vocabulary": 8, "device": "x"}
    book = {"identity": identity, "rows": rows, "failures": [], "drift": [], "curves": []}
    suite_optimizers.keep(book, Folder(tmp_path))
    for row in read(tmp_path)["rows"]:
        assert row["hooks_ms_per_update"] == pytest.approx(8)
        assert (row["share_of_step"], row["share_is"]) == (pytest.approx(0.18), "scaled")
        assert row["worst_over_median_step"] == pytest.approx(130 / 110)
    sides = [{**plain, "match": "optimizer=kfac", "round": 0, "variant": variant, "tokens_per_second": rate,
              "micro_batch": 1, "commit": "abc"}
             for variant, rate in (("plain", 10_240.0), ("optimizer=kfac", 8_192.0))]  # fmt: skip
    (tmp_path / "throughput.json").write_text(json.dumps({**held, "rounds": sides}))
    suite_optimizers.keep(book, Folder(tmp_path))
    shares = [(row["share_of_step"], row["share_is"]) for row in read(tmp_path)["rows"]]
    scaled = (pytest.approx(0.18), "scaled")
    assert shares == [(pytest.approx(0.25), "of whole updates"), scaled, scaled]
    page = (tmp_path / "optimizers.md").read_text()
    assert "| 25.00 % (of whole updates) |" in page
    assert page.count("| 18.00 % (scaled) |") == 2


def test_rounds_before_a_timeout_count_and_failures_of_another_commit_do_not(tmp_path, asked):
    """Whether it was the first of its call or not."""
    asked.answers["sgd"] = ValueError("out of memory")
    for name in ("lion", "lamb"):
        asked.answers[name] = steps.Found([row_of("gpt2_pico", name)], [], cut=True)
    for only, commit in (("lion,lamb", "one"), ("sgd", "one"), ("lion,sgd", "one"), ("lion,sgd", "two")):
        assert suite_optimizers.run(plan_of(only, commit), Folder(tmp_path), Deadline(9), print) == 0
    assert [name for name, _ in asked.units] == ["lion", "lamb", "sgd", "sgd"]
    assert [row["optimizer"] for row in read(tmp_path)["rows"]] == ["lion", "lamb"]
    assert [each["commit"] for each in read(tmp_path)["failures"]] == ["two"]


def test_a_unit_keeps_what_it_wrote_before_its_end(monkeypatch):
    """Whether its time was over, or it broke."""

    class Process:
        code: int | None = None
        lines: list[list[str]] = []  # noqa: RUF012

        def __init__(self, line, stderr, **_):
            self.lines.append(line)
            self.pid, self.returncode = 2**22 + 1, self.code  # no process has that number
            row = row_of("gpt2_pico", "soap")
            Path(line[line.index("--json") + 1]).write_text(json.dumps({"rows": [row], "failures": []}))
            stderr.write("Traceback\nRuntimeError: no\n")

        def wait(self, timeout=None):
            if self.code is None and timeout:
                raise steps.subprocess.TimeoutExpired("it", timeout)

    monkeypatch.setattr(steps.subprocess, "Popen", Process)
    for code, cut, failures in ((None, True, []), (1, False, [{"implementation": "halfstep", "error":
                                                               "RuntimeError: no"}])):  # fmt: skip
        Process.code = code
        found = steps.measure(steps.Unit("gpt2_pico", "soap", {}), 256, 8, 2, "cpu", ["soap=here", "lion=x"], 9)
        assert ([row["optimizer"] for row in found.rows], found.failures, found.cut) == (["soap"], failures, cut)
    assert Process.lines[0][-2:] == ["--reference", "soap=here"]
    steps.measure(steps.Unit("gpt2_pico", "soap", {"stagger": "true"}), 256, 8, 2, "cpu", ["soap=here"], 9)
    assert Process.lines[-1][-3:] == ["--alone", "--set", "soap.stagger=true"]


def test_ways_that_need_cuda_are_left_out_on_a_cpu():
    for device, expected in (("cpu", False), ("cuda", True)):
        units = plan_of("soap", device=device).units("gpt2_pico")
        assert units[0].way == {}
        assert any("triton" in unit.way.values() for unit in units) is expected
        assert any("tf32" in unit.way.values() for unit in units) is expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--part", "optimizers", "--rounds", "-1"], "--rounds must be above 0, not -1"),
        (["--part", "train", "--rounds", "0"], "--rounds must be above 0, not 0"),
        (["--part", "optimizers", "--context", "-1"], "--context must be above 0, not -1"),
        (["--part", "optimizers", "--minutes", "nan"], "--minutes must be above 0, not nan"),
        (["--part", "train", "--tokens", "0"], "--tokens must be above 0, not 0"),
        (["--part", "optimizers", "--vocabulary", "0"], "--vocabulary must be at least 256"),
        (["--part", "optimizers", "--reference", "soap=nowhere"], "nowhere is no checkout of it"),
        (["--part", "optimizers", "--only", "lion", "--reference", "kfac=here"], "--reference kfac"),
        (["--part", "optimizers", "--tokens", "512"], "--tokens is of the part train alone"),
        (["--part", "claims", "--rounds", "3"], "--rounds is of the parts train and optimizers alone"),
        (["--part", "train", "--only", "soap"], "--only is of the parts optimizers and claims alone"),
    ],
)
def test_bad_input_leaves_no_failure_behind(given, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        bench_suite.main([*TINY, "--output", str(tmp_path / "new"), *given])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_copy_without_git_is_told_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(origin, "__file__", str(tmp_path / "run_folder.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.delenv("HALFSTEP_COMMIT", raising=False)
    assert origin.git_state() == {"commit": None, "dirty": None}
    monkeypatch.setenv("HALFSTEP_COMMIT", "abc")
    assert origin.git_state() == {"commit": "abc", "dirty": None}
