"""The bench: its store, its turns, and what a side that breaks, hangs or runs out of memory costs."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import yaml

from conventions.config_keys import CONFIGS
from judge.hardware import grids, hardware_tables, summary
from judge.measurement_store import Store
from judge.measurements import FILE, read, records
from judge.ratio import ratio
from scripts.bench.measurement import BESIDE, Measurement, Side
from scripts.bench.scheduler import Scheduler
from tests.command import environment

STEADY = "tests.bench_sides:Steady"
BOOK = yaml.safe_load((CONFIGS / "bench.yaml").read_text())


def store(folder, commit="abc", again=False):
    return Store(folder, {"commit": commit, "dirty": False, "device": "made up"}, again)


def beside(name, rounds=2, limit=60.0, **keywords):
    sides = (Side(name, STEADY, keywords), Side("other", STEADY, {"seconds": 2.0}))
    return Measurement("train", {"model": "m"}, sides, BESIDE, rounds, updates=1, limit=limit)


def run(held, wanted, seconds=120):
    lines = []
    scheduler = Scheduler(held, seconds, held.path.parent / ".scratch", lines.append)
    with held.held():
        scheduler.run(wanted)
    return len(scheduler.missing(wanted)), lines


def round_of(what="x", number=0, commit="abc", **others):
    return {"what": what, "round": number, "part": "train", "about": {}, "sides": ["a"], "facts": [{}],
            "turns": [[{"seconds": 1.0}]], "commit": commit, **others}  # fmt: skip


def test_a_torn_line_is_taken_away_and_nothing_else(tmp_path):
    first = store(tmp_path)
    with first.held():
        first.add(round_of(number=0))
        first.add(round_of(number=1))
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole + b'{"what": "x", "round": 2, "tur')
    assert [row["round"] for row in read(tmp_path / FILE)] == [0, 1]
    assert (tmp_path / FILE).read_bytes() != whole  # who reads changes nothing
    later = store(tmp_path)
    with later.held():
        assert (tmp_path / FILE).read_bytes() == whole
        later.add(round_of(number=2))
    assert sorted(store(tmp_path).record("x").rounds) == [0, 1, 2]


def test_a_line_of_something_else_is_refused(tmp_path):
    for text in ("{}\n", "[1]\n", "words\n"):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(ValueError, match="has a line that is none of the bench's"):
            store(tmp_path)


def test_two_calls_on_one_store_are_refused(tmp_path):
    with (
        store(tmp_path).held(),
        pytest.raises(ValueError, match="is held by a call that still runs"),
        store(tmp_path).held(),
    ):
        pass


def test_what_another_commit_measured_stays_and_what_failed_there_is_tried_again(tmp_path):
    old = store(tmp_path, "old")
    with old.held():
        old.add(round_of("good", commit="old"))
        old.add(round_of("bad", None, "old", error="it cannot"))
    assert store(tmp_path, "new").record("good").rounds
    assert not store(tmp_path, "new", again=True).record("good").rounds
    assert store(tmp_path, "old").record("bad").error == "it cannot"
    assert store(tmp_path, "new").record("bad").error is None
    new = store(tmp_path, "new")
    new.add(round_of("good", 0, commit="new"))
    assert [(each.what, each.commit) for each in records(new.lines)] == [("good", "new"), ("bad", "old")]


def drifting(seed, rounds, noise):
    """Turns A B B A on a machine whose speed moves by a factor of four within the rounds; A takes .8 of B's time."""
    generator = random.Random(seed)
    first, other = [], []
    for n in range(rounds):
        slow = [4 ** math.sin(0.7 * n + 0.02 * turn) * math.exp(generator.gauss(0, noise)) for turn in range(4)]
        first.append([0.8 * slow[0], 0.8 * slow[3]])
        other.append([slow[1], slow[2]])
    return first, other


def test_neighbours_on_a_drifting_machine_give_the_ratio_and_an_interval_that_covers_it():
    exact = ratio(*drifting(0, 6, 0.0))
    assert exact.value == pytest.approx(0.8, rel=1e-3)
    result = [ratio(*drifting(seed, 6, 0.1)) for seed in range(400)]
    covered = sum(each.low <= 0.8 <= each.high for each in result) / len(result)
    assert 0.92 < covered < 0.98


def test_a_steady_slowing_down_favours_nobody():
    first, other = [[1.0 * 0.8, 1.3**3 * 0.8]], [[1.3, 1.3**2]]
    assert ratio(first, other).value == pytest.approx(0.8)
    assert ratio(first, other).low is None  # of one round there is no interval


def test_sides_take_turns_and_the_ratio_is_theirs(tmp_path):
    held, log = store(tmp_path), tmp_path / "turns"
    sides = (Side("a", STEADY, {"seconds": 1.0, "log": str(log)}), Side("b", STEADY, {"seconds": 2.0, "log": str(log)}))
    left, lines = run(held, [Measurement("train", {"model": "m"}, sides, BESIDE, 2, updates=1)])
    assert left == 0
    assert log.read_text().split() == ["1.0", "2.0", "2.0", "1.0"] * 2
    assert [row["round"] for row in read(tmp_path / FILE)] == [0, 1]
    assert any("a 1,000.00 ms; b 2,000.00 ms" in line for line in lines)
    assert [[t["seconds"] for t in turns] for turns in held.lines[0]["turns"]] == [[1.0, 1.0], [2.0, 2.0]]


def test_what_breaks_hangs_or_dies_costs_its_own_line(tmp_path):
    held = store(tmp_path)
    alone = (Side("hanging", STEADY, {"how": "hangs", "fails_at": 1}),)
    hanging = Measurement("train", {"model": "m"}, alone, "A", 2, updates=1, limit=3.0)
    wanted = [beside("broken", how="breaks"), hanging,
              beside("dead", how="dies"), beside("unbuilt", how="breaks", fails_at=-1), beside("good")]  # fmt: skip
    left, _ = run(held, wanted)
    assert left == 0
    errors = [held.record(one.what).error for one in wanted]
    assert errors[0] == "broken: RuntimeError: it cannot"
    assert errors[1] == "hanging did not answer within 3 s"
    assert errors[2].startswith("dead died: ")
    assert errors[3:] == ["unbuilt: RuntimeError: it cannot", None]
    assert len(held.record(wanted[-1].what).rounds) == 2


def test_out_of_memory_beside_another_side_takes_smaller_passes_and_keeps_them(tmp_path):
    held, one = store(tmp_path), beside("large", how="memory", fits=2)
    assert run(held, [one])[0] == 0
    rounds = held.record(one.what).rounds
    assert [rounds[n]["facts"][0]["micro"] for n in rounds] == [2, 2]  # 8 and 4 did not fit
    assert store(tmp_path).record(one.what).sizes == {"large": 2}


@pytest.mark.slow
def test_what_does_not_end_within_a_whole_call_is_not_begun_again(tmp_path):
    held, one = store(tmp_path), beside("endless", how="hangs", limit=600.0)
    assert run(held, [one], seconds=12)[0] == 0
    assert held.record(one.what).error == "it did not end within a call of 0.2 minutes"


def test_those_built_together_are_all_measured(tmp_path):
    held = store(tmp_path)
    sides = [Side(name, STEADY, {"how": how}) for name, how in (("a", ""), ("b", "breaks"), ("c", ""))]
    sides.append(Side("d", "tests.bench_sides:once", {"value": 3}))
    wanted = [Measurement("updates", {}, (side,), updates=8, together=3) for side in sides]
    assert run(held, wanted)[0] == 0
    assert [held.record(one.what).error for one in wanted] == [None, "b: RuntimeError: it cannot", None, None]
    assert held.record(wanted[3].what).rounds[0]["turns"][0][0]["value"] == 3


KILLED = """
import sys
from tests.test_bench import beside, run, store
from pathlib import Path
run(store(Path(sys.argv[1])), [beside("a", rounds=10 ** 6)])
"""


def test_a_call_that_is_killed_goes_on_where_it_was(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], env=environment())
    while len(read(tmp_path / FILE)) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    made = len(read(tmp_path / FILE))
    held = store(tmp_path)
    assert run(held, [beside("a", rounds=made + 1)])[0] == 0
    assert [row["round"] for row in held.lines] == list(range(made + 1))


def rates(side, peer, seconds, other, model="gpt2_125m", rounds=2):
    about = {"model": model, "tokens": 524_288, "context": 1024, "vocabulary": 50_304, "compile": True}
    facts = [{"micro": 32, "flops_per_token": 855_000_000, "period": 1}, {"micro": 16, "period": 1}]
    turns = [[{"seconds": s, "peak_bytes": 1e9}] * 2 for s in (seconds, other)]
    row = {"what": f"{side} {model}", "part": "train", "about": about, "sides": [side, peer], "facts": facts,
           "turns": turns, "commit": "abcdef", "device": "NVIDIA H100 80GB HBM3"}  # fmt: skip
    return [{**row, "round": n} for n in range(rounds)]


CALL = {"what": "call", "device": "NVIDIA H100 80GB HBM3", "commit": "abcdef", "facts": {"peak_flops": 989e12}}


def texts(rows):
    return "\n".join(" | ".join(row) for grid in grids(rows, BOOK) for row in [[grid.title], *grid.rows])


def test_goals_and_marks_are_the_books_and_about_its_devices_alone():
    rows = [CALL, *rates("halfstep", "nanogpt", 0.9, 1.08)]
    shown = texts(rows)
    assert "gpt2_125m | halfstep | 582,542 | 1.2 (1.2 to 1.2) | 50.4%" in shown
    assert "125M, beside nanoGPT's tokens/s | ≥ 1.25x | 1.20x | halfstep | missed by 4.0%" in shown
    assert "125M, tokens/s | ≥ 580,000 | 582,542 | halfstep | met" in shown
    assert "355M, MFU | ≥ 50.0% |  |  | not measured" in shown
    assert "llm.c, exact GPT-2 | 8 x H100 | 468,000 | 40.5% | 1.24x" in shown
    elsewhere = texts([{**row, "device": "NVIDIA A100"} for row in rows])
    assert "halfstep | 582,542" in elsewhere
    assert "Goals" not in elsewhere


def test_a_devices_tables_come_from_its_store(tmp_path):
    place = tmp_path / "results" / "hardware" / "gpu"
    place.mkdir(parents=True)
    rows = [CALL, *rates("halfstep", "nanogpt", 0.9, 1.08)]
    (place / FILE).write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"torn')
    assert "| gpt2_125m | halfstep | 582,542 |" in hardware_tables(place)
    page = summary([place])
    assert page.startswith("**NVIDIA H100 80GB HBM3**; all tables are in `results/hardware/gpu`")
    assert "| gpt2_125m | nanogpt | 485,452 |" in page
    assert summary([]) == "No device has been measured yet: `make bench` does it, and `make tables` puts it here.\n"


def test_its_environment_is_no_part_of_what_is_measured():
    one = beside("a", log="/home/somebody/log")
    assert one.what == "train model=m: a beside other"
    assert os.sep not in one.what
