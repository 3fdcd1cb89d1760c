"""Matches of sides and programs: what fails, what does not fit, what takes too long."""

import pytest

from scripts import bench_suite
from scripts.bench import side
from scripts.bench.contenders import Halfstep
from scripts.suite import train as suite_train
from scripts.suite.folder import Folder
from scripts.suite.program import Program
from tests.suite import TINY, Here, read


def test_a_variant_that_does_not_run_is_told_and_the_rest_goes_on(alone, monkeypatch, capsys):
    monkeypatch.setattr(Here, "broken", (16,))
    line = ["--part", "train", *TINY, "--output", str(alone), "--rounds", "1", "--variants", "head_rows=16,head_rows=8"]
    bench_suite.main(line)
    assert "gpt2_pico, halfstep (head_rows=16): RuntimeError: it cannot" in capsys.readouterr().out
    assert {row["variant"] for row in read(alone, "throughput.json")["rows"]} == {"plain", "head_rows=8"}
    made = len(Here.made)
    bench_suite.main(line)
    assert len(Here.made) == made


def test_a_variant_can_be_an_optimizer_whole_periods_of_it(alone, monkeypatch):
    turns: list[int] = []
    turn = Halfstep.turn

    def noted(one, steps):
        turns.append(steps)
        return turn(one, steps)

    monkeypatch.setattr(Halfstep, "turn", noted)
    bench_suite.main(
        ["--part", "train", *TINY, "--output", str(alone), "--rounds", "1", "--variants", "optimizer=soap"]
    )
    assert type(Here.made[-1].optimizer).__name__ == "SOAP"
    assert turns[-1] % 10 == 0
    rows = {row["variant"]: row for row in read(alone, "throughput.json")["rows"]}
    assert rows["optimizer=soap"]["beside"]["median"] < 1  # it takes longer than AdamW


def test_the_first_size_of_a_pass_that_fits_is_taken_and_where_the_next_call_begins(alone, monkeypatch, capsys):
    monkeypatch.setattr(Here, "most", 2)
    line = ["--part", "train", *TINY, "--output", str(alone), "--rounds"]

    def tried():
        found = [one.setting.micro for one in Here.made]
        Here.made.clear()
        return found

    bench_suite.main([*line, "1"])
    assert tried() == [4, 2]
    bench_suite.main([*line, "2"])
    assert tried() == [2]
    monkeypatch.setattr(Here, "most", 1)
    bench_suite.main([*line, "3"])
    assert tried() == [2, 1]
    bench_suite.main([*line, "4"])
    assert tried() == [1]
    monkeypatch.setattr(Here, "most", 0)
    bench_suite.main([*line, "5"])
    assert "not even 1 sequences per pass fit the memory" in capsys.readouterr().out


def broken_in_rounds(monkeypatch, breaks, words):
    about = side.about

    def asked():
        if breaks(side.contender.setting):
            raise ValueError(words)
        return about()

    monkeypatch.setattr(side, "about", asked)


def test_a_side_that_fails_in_a_round_is_out_and_the_other_rate_is_kept(alone, monkeypatch, capsys):
    broken_in_rounds(monkeypatch, lambda setting: setting.head_rows == 16, "RuntimeError: it cannot")
    line = ["--part", "train", *TINY, "--output", str(alone), "--rounds", "1", "--variants", "head_rows=16"]
    bench_suite.main(line)
    assert "gpt2_pico, halfstep (head_rows=16): RuntimeError: it cannot" in capsys.readouterr().out
    rounds = read(alone, "throughput.json")["rounds"]
    assert [(row["match"], row["variant"]) for row in rounds] == [("plain", "plain"), ("head_rows=16", "plain")]


def test_a_side_that_runs_out_of_memory_beside_another_takes_smaller_passes(alone, monkeypatch, capsys):
    broken_in_rounds(monkeypatch, lambda setting: setting.micro > 2, "OutOfMemoryError: CUDA out of memory")
    bench_suite.main(["--part", "train", *TINY, "--output", str(alone), "--rounds", "2"])
    book = read(alone, "throughput.json")
    assert [row["micro_batch"] for row in book["rounds"]] == [2, 2]
    assert book["failures"] == []
    assert [(each["micro"], each["fits"]) for each in book["micros"]] == [(4, True), (4, False), (2, True)]
    assert "nothing is left of this part" in capsys.readouterr().out


def test_a_side_that_hangs_fails_once(alone, monkeypatch):
    monkeypatch.setattr(Here, "ask", lambda *_: (_ for _ in ()).throw(TimeoutError()))
    bench_suite.main(["--part", "train", *TINY, "--output", str(alone), "--rounds", "1"])
    (failure,) = read(alone, "throughput.json")["failures"]
    assert failure["error"] == "its first updates did not end within 60 s"


def test_two_calls_at_once_are_refused(alone, capsys):
    with Folder(alone).held(), pytest.raises(SystemExit, match="2"):
        bench_suite.main(["--part", "train", *TINY, "--output", str(alone)])
    assert "is another call's, which still runs: wait for its end" in capsys.readouterr().err
    bench_suite.main(["--part", "train", *TINY, "--output", str(alone), "--rounds", "1"])


def test_what_another_commit_measured_is_measured_anew_if_asked(alone, monkeypatch):
    line = ["--part", "train", *TINY, "--output", str(alone), "--rounds", "1"]
    found = []
    for commit, more in [("a", []), ("b", []), ("b", ["--again"]), ("b", ["--again"])]:
        monkeypatch.setattr(bench_suite, "commit_of", lambda given, commit=commit: {"commit": commit, "dirty": False})
        bench_suite.main([*line, *more])
        found.append(([row["commit"] for row in read(alone, "throughput.json")["rounds"]], len(Here.made)))
    assert found == [(["a"], 1), (["a"], 1), (["b"], 2), (["b"], 2)]


def test_what_a_program_takes_too_long_for_leaves_the_rates(alone, monkeypatch):
    turns = []

    def rate(micro, folder, seconds):
        turns.append((micro, folder.is_dir()))
        if "late" in str(folder):
            raise TimeoutError
        return 5.0

    theirs = Program("theirs.py", "halfstep", "theirs.py", "gpt2_pico", rate, 12, as_loop=True)
    late = Program("late.py", "late", "plain", "gpt2_pico", rate, 12)
    broken = Program("broken.py", "broken", "plain", "gpt2_pico", mocked_failure, 64)
    monkeypatch.setattr(suite_train, "peers", lambda *_: (None, [late, theirs, broken]))
    line = ["--part", "train", *TINY, "--output", str(alone), "--rounds", "3"]

    def rounds():
        book = read(alone, "throughput.json")
        return [(row["system"], row["variant"], row["round"]) for row in book["rounds"]], book["failures"]

    plain = [("halfstep", "plain", number) for number in range(3)]
    bench_suite.main(line)  # two minutes: no room for them
    assert rounds() == (plain, [])
    assert turns == []
    made = len(Here.made)
    bench_suite.main([*line, "--minutes", "9"])
    found, failures = rounds()
    assert found == [*plain, *2 * [("halfstep", "theirs.py", 2)]]
    assert [(each["system"], each["error"]) for each in failures] == [
        ("late", "it did not end within 300 s"), ("broken", "no CUDA")
    ]  # fmt: skip
    # As many sequences per pass as halfstep's own side, of the same system; its own default beside another.
    assert turns == [(12, True), (4, True), (4, True)]
    assert len(Here.made) == made
    rows = {row["variant"]: row for row in read(alone, "throughput.json")["rows"]}
    assert rows["theirs.py"]["tokens_per_second"] == 5
    assert rows["theirs.py"]["beside"]["median"] < 1


def mocked_failure(micro, folder, seconds):
    raise ValueError("no CUDA")


def test_what_failed_is_tried_again_once_the_code_is_another(alone, monkeypatch):
    monkeypatch.setattr(Here, "broken", (0,))
    line = ["--part", "train", *TINY, "--output", str(alone), "--rounds", "1"]
    made = []
    for commit in ("a", "a", "b"):
        monkeypatch.setattr(bench_suite, "commit_of", lambda given, commit=commit: {"commit": commit, "dirty": False})
        bench_suite.main(line)
        made.append(len(Here.made))
    assert made == [1, 1, 2]
    assert [each["commit"] for each in read(alone, "throughput.json")["failures"]] == ["b"]
