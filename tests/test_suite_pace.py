"""How long the runs of bench_suite's claims are expected to take, and which of them a call begins."""

from datetime import UTC, datetime

import pytest

from judge.records import read_run
from scripts.suite import claims as suite_claims
from scripts.suite.pace import GUESS, MARGIN, Pace, note_starts
from scripts.suite.training import Job
from tests.claimed import change
from tests.study import write_run


def test_a_later_run_of_the_stage_is_taken_where_the_first_does_not_fit():
    def job(name, kind, stage, left, tokens=100):
        return Job(name, kind, stage, left, tokens, str)

    long, short, later = job("long", "slow", 0, 4000), job("short", "fast", 0, 1000), job("later", "fast", 1, 10)
    pace = Pace({"slow": 1.0, "fast": 0.01}, 0.01, {"slow": {"first": 9.0}, "fast": {"first": 5.0, "next": 1.0}})
    assert suite_claims.choose([long, short, later], pace, 100, begun=True) == [short]
    assert suite_claims.choose([short, later], pace, 100, begun=True) == [short, later]
    assert suite_claims.choose([long], pace, 250 * MARGIN + 9, begun=True) == [long]
    assert suite_claims.choose([long], pace, 250 * MARGIN + 8, begun=True) == []
    assert pace.seconds(short, first=False) == 1 + MARGIN * 10
    other = job("other", "new", 0, 10, tokens=300)
    assert pace.seconds(other, first=True) == 9 + MARGIN * 10 * GUESS * 0.01 * 300
    assert suite_claims.choose([other], pace, 10, begun=True) == [other]


def test_the_pace_is_of_the_newest_run_and_a_start_is_told_apart(tmp_path):
    runs = []
    for seed, (hour, seconds) in enumerate({"03": 0.3, "01": 0.1, "02": 0.2}.items()):
        place = write_run(tmp_path, seed=seed, steps=100, seconds_per_step=seconds)
        change(place, "manifest.json", started=f"2026-01-01T{hour}:00:00Z", ended=f"2026-01-01T{hour}:01:40Z")
        runs.append(("kind", read_run(place)))
    cut = write_run(tmp_path, seed=9, steps=100, status="running", until=50, seconds_per_step=9.0)
    runs.append(("kind", read_run(cut)))
    pace = Pace.of(runs, {})
    between = 0.01 + 0.002 + 0.001  # evaluation, checkpoints and logging, of an update
    assert pace.updates == {"kind": pytest.approx(0.3 + between)}
    assert pace.per_token == pytest.approx((0.3 + between) / 1024)
    assert Pace.of(runs[-1:], {}).updates == {"kind": pytest.approx(9 + between)}  # for want of one that ended
    starts = {"kind": {"next": 7.0}}
    begun = datetime(2026, 1, 1, 1, tzinfo=UTC).timestamp()
    note_starts(starts, runs[1:2], begun)
    assert starts == {"kind": {"first": pytest.approx(100 - 10 - 100 * between, abs=0.1), "next": 7.0}}
    change(runs[2][1].folder, "manifest.json", resumes=[{"at": "now"}])
    note_starts(starts, [("other", read_run(runs[2][1].folder))], begun)
    assert list(starts) == ["kind"]  # the clock of what went on goes back further
