"""make bench-optimizers on shapes that take no time: what it times, its arithmetic, its file, its complaints."""

import json
import sys
import time

import pytest
import torch

from conventions import atomic
from optimizers import find, kernels
from scripts import bench_optimizers
from scripts.bench import rounds as bench_rounds
from scripts.bench.references import Reference, Rival, find_references
from scripts.bench.rounds import measure, summary
from scripts.bench.stand import Contender, Shape, Stand, Turn, fused_adamw, ours
from scripts.bench_optimizers import main, parser, read_options

SHAPE = Shape(layers=1, width=8, vocabulary=0, tokens=8)
TINY = ["--layers", "1", "--width", "8", "--tokens", "8", "--rounds", "1"]


def contender(period: int, refresh: int | None) -> Contender:
    return Contender("theirs", Stand(SHAPE, "cpu"), lambda n: None, period, lambda n: n % period == refresh, [])


def test_the_arithmetic_of_a_row():
    ms = [1.0, 4.0, 1.0, 2.0]  # a period of four, whose second step refreshes
    turns = [Turn(4 * i, [1e-3 * factor * x for x in ms], None) for i, factor in enumerate((1.0, 1.0, 3.0))]
    row = summary(contender(4, 1), turns, [1e-3, 2e-3, 1e-3], "soap", {"every": 4})
    assert row["plain_ms"] == pytest.approx(1)
    assert row["refresh_ms"] == pytest.approx(4)
    assert row["amortised_ms"] == pytest.approx(2)
    assert row["worst_over_mean"] == pytest.approx(2)
    assert (row["worst_ms"], row["median_ms"], row["rounds"]) == (pytest.approx(12), pytest.approx(2.5), 3)
    assert row["ratio"] == pytest.approx({"median": 2, "low": 1, "high": 6})
    assert (row["hooks_ms_per_step"], row["state_bytes_per_parameter"]) == (None, None)


def test_phases_are_counted_from_the_first_step_of_all():
    turns = [Turn(3, [1e-3, 9e-3], None), Turn(5, [1e-3, 9e-3], None)]
    assert summary(contender(2, 0), turns, [1e-3, 1e-3], "soap", {})["refresh_ms"] == pytest.approx(9)


@pytest.mark.parametrize(
    ("name", "keywords", "expected"),
    [
        ("soap", {"every": 3}, [0, 3]),
        ("shampoo", {"every": 3}, [2, 5]),  # it counts from 1
        ("sophia_g", {"every": 3}, [0, 3]),
        ("kfac", {"every_factor": 2, "every_inverse": 6}, [0, 2, 4]),
        ("mkor", {"every": 2}, [0, 2, 4]),
        ("lion", {}, []),
        ("adahessian", {"every": 1}, []),
    ],
)
def test_which_steps_refresh(name, keywords, expected):
    one = ours(find(name), keywords, Stand(SHAPE, "cpu"), Stand(SHAPE, "cpu"))
    one.turn()
    first, seconds, _ = one.turn()
    assert (first, len(seconds)) == (one.done // 2, one.done // 2)
    assert len(seconds) % one.period == 0
    assert [n for n in range(6) if one.refreshes(n)] == expected


def test_gradients_and_passes_are_not_on_the_bill(monkeypatch):
    stand = Stand(SHAPE, "cpu")
    load = stand.load
    monkeypatch.setattr(stand, "load", lambda n: (time.sleep(0.05), load(n)))
    one = fused_adamw(stand)
    assert max(one.turn().seconds) < 0.04


def test_hooks_are_told_apart():
    stand, spare = Stand(SHAPE, "cpu"), Stand(SHAPE, "cpu")
    assert ours(find("kfac"), {}, stand, spare).turn().hooks is not None
    assert ours(find("lion"), {}, Stand(SHAPE, "cpu"), spare).turn().hooks is None


def test_a_file_and_a_table(tmp_path, capsys):
    path = tmp_path / "bench.json"
    main([*TINY, "--only", "lion,soap", "--set", "soap.every=2", "--vocabulary", "16", "--json", str(path)])
    shown = capsys.readouterr().out
    result = json.loads(path.read_text())
    assert {"setting", "machine", "versions", "git", "rows", "failures"} == result.keys()
    assert result["setting"] == {"layers": 1, "width": 8, "vocabulary": 16, "tokens": 8, "rounds": 1}
    assert result["machine"]["threads"] == 1
    assert {"commit", "dirty"} == result["git"].keys()
    rows = result["rows"]
    expected = [
        ("lion", "halfstep"),
        ("lion", "pytorch_optimizer"),
        ("soap", "halfstep"),
        ("soap", "pytorch_optimizer"),
    ]
    assert [(row["optimizer"], row["implementation"]) for row in rows] == expected
    for row in rows:
        assert shown.rindex(row["optimizer"]) > shown.index("x AdamW")  # the table is the last
        assert row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"]
        assert row["amortised_ms"] > 0
        assert row["state_bytes_per_parameter"] >= 4
    assert rows[2]["period"] == rows[2]["keywords"]["every"] == 2
    assert rows[2]["refresh_ms"] > 0
    for row in rows:  # beside every one stands what the mean would be at AdamW's bandwidth and the best product's rate
        of = row["floor_of"]
        products = sum(flops / of["flops_per_second"][precision] for precision, flops in of["flops"].items())
        assert row["floor_ms"] == pytest.approx(1e3 * (of["moved_bytes"] / of["bytes_per_second"] + products))
    traffic = 20 / 28 * rows[0]["fused_adamw_ms"]
    assert rows[0]["floor_ms"] == pytest.approx(traffic)
    assert rows[2]["floor_of"]["flops"].keys() == {"float32"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--only", "loin"], "--only: no optimizer loin is registered; did you mean lion or muon?"),
        (["--only", "lion", "--reference", "soap=here"], "--reference soap is of no use: --only leaves it out"),
        (
            ["--only", "soap", "--reference", "soap=nowhere"],
            "nowhere is no checkout of it: it holds no soap.py (authors)",
        ),
        (["--only", "sgd", "--reference", "sgd=here"], "no checkout is known for it"),
        (["--only", "soap", "--reference", "soap"], "--reference soap: give it as --reference NAME=PATH"),
        (["--only", "soap", "--set", "soap.evry=3"], "optimizer.evry is no key of optimizer: did you mean every?"),
        (["--only", "soap", "--set", "soap.every=0"], "optimizer.every must be at least 1, not 0"),
        (["--rounds", "0"], "--rounds must be at least 1, not 0"),
        (["--threads", "0"], "--threads must be at least 1, not 0"),
        (["--json", "nowhere/bench.json"], "there is no folder"),
    ],
)
def test_bad_input_is_one_sentence(given, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*TINY, *given])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert said in error
    assert len(error.strip().splitlines()) == 1


def test_a_checkout_is_read_without_its_package(tmp_path, monkeypatch):
    """Its own __init__ may want what is not installed."""
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    (tmp_path / "mkor").mkdir()
    (tmp_path / "mkor" / "__init__.py").write_text("import no_such_thing_at_all\n")
    (tmp_path / "mkor" / "words.py").write_text("FACTOR = 2\n")
    (tmp_path / "mkor" / "mkor.py").write_text(
        "import torch\nfrom .words import FACTOR\n\n\n"
        "class MKOR:\n    def __init__(self, model, inv_freq, half_precision, optimizer):\n"
        "        self.optimizer, self.calls = optimizer, FACTOR\n\n    def step(self):\n        self.optimizer.step()\n"
    )
    ((reference, checkout),) = find_references("mkor", tmp_path)
    one = reference.build(Stand(SHAPE, "cpu"), Stand(SHAPE, "cpu"), {"every": 5}, checkout)
    turn = one.turn()
    assert (one.period, len(turn.seconds)) == (5, 10)
    assert turn.hooks is not None
    assert torch.isfinite(torch.cat([p.flatten() for p in one.stand.params])).all()


def test_the_file_is_whole_after_every_turn(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(atomic, "write_text", lambda path, text: kept.append(json.loads(text)["rows"]))
    main([*TINY, "--rounds", "2", "--only", "lion,sgd", "--json", str(tmp_path / "bench.json")])
    turns = [[(row["optimizer"], row["rounds"]) for row in rows] for rows in kept]
    both = [("lion", 2), ("lion", 2)]  # ours has its first turn before pytorch_optimizer's is built
    assert turns == [[("lion", 1)], [("lion", 1), ("lion", 1)], [("lion", 2), ("lion", 1)], both, [*both, ("sgd", 1)],
                     [*both, ("sgd", 2)]]  # fmt: skip


def made_of(turns):
    """A reference whose turn of that number raises; 0: it cannot be built at all."""

    def make(module, stand, keywords):
        if turns == 0:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

        def step(n):
            if n >= 10 * (turns - 1):
                raise RuntimeError("another torch")

        return Rival(step)

    return Reference("lion", f"broken at {turns}", "torch.optim", make)


def test_a_reference_that_breaks_is_left_out_with_a_note_and_what_it_measured_is_kept():
    references = [(made_of(turns), None) for turns in (0, 1, 2, 3, 9)]
    *_, found = measure(find("lion"), {}, SHAPE, "cpu", False, references, 2)
    rounds = {row["implementation"]: row["rounds"] for row in found.rows}
    assert rounds == {"halfstep": 2, "broken at 3": 1, "broken at 9": 2}
    assert {each["implementation"]: each["error"] for each in found.failures} == {
        "broken at 0": "OutOfMemoryError: CUDA out of memory.",
        **{f"broken at {turns}": "RuntimeError: another torch" for turns in (1, 2, 3)},
    }


def eager(rule, *_):
    """In the place of a compiled graph."""
    return lambda batch, *numbers, **constants: [rule(*row, *numbers, **constants) for row in batch]


def test_ours_compiled_has_no_copy_of_its_own_and_is_left_out_where_nothing_is_compiled(monkeypatch):
    stands, graphs = [], []
    monkeypatch.setattr(bench_rounds, "Stand", lambda *given: stands.append(Stand(*given)) or stands[-1])
    monkeypatch.setattr(kernels, "_graph", lambda *given: graphs.append(given) or eager(*given))
    for name, compiled in (("lion", True), ("kfac", False)):
        *_, found = bench_rounds.measure(find(name), {}, SHAPE, "cpu", True, [], 2)
        expected = [("halfstep", False, 2), *[("halfstep, compiled", True, 2)] * compiled]
        assert [(row["implementation"], row["compiled"], row["rounds"]) for row in found.rows] == expected
        assert len(stands) == 2  # AdamW's and ours
        assert (len(graphs) > 0) is compiled
        stands.clear()
        graphs.clear()


def test_pytorch_optimizers_shampoo_is_not_asked_for_an_svd_of_the_vocabulary():
    ((reference, _),) = find_references("shampoo", None)
    stand = Stand(Shape(1, 4, 10_001, 4), "cpu")
    with pytest.raises(ValueError, match="it has an SVD of every side, and one is 10,001 long"):
        reference.build(stand, stand, {"every": 10})


def test_ours_alone(capsys):
    main([*TINY, "--only", "lion", "--alone"])
    assert "pytorch_optimizer" not in capsys.readouterr().out


def test_what_wants_cuda_is_tried_on_the_device_that_is_asked_for(monkeypatch):
    """`meta` stands for a GPU."""
    monkeypatch.setattr(bench_optimizers.devices, "resolve_device", lambda device: device)
    line = ["--only", "soap", "--set", "soap.projection_dtype=tf32", "--set", "soap.gram=triton", "--device", "meta"]
    _, place, _, wanted = read_options(parser().parse_args([*TINY, *line]))
    assert (place, wanted[0][1]["gram"]) == ("meta", "triton")
    with pytest.raises(ValueError, match="CUDA"):
        read_options(parser().parse_args([*TINY, *line[:-1], "cpu"]))
