"""bench_suite: it goes on where it stopped, a table comes last, and what does not run is a row and no end."""

import json
from typing import Any

import pytest
import torch

from models.head import block_rows
from scripts import bench_suite
from scripts.bench import side
from scripts.bench.contenders import Halfstep
from scripts.suite import curves, match, start
from scripts.suite import train as suite_train
from scripts.suite.folder import Deadline, folder_name, markdown
from scripts.suite.program import Program

START = [{"model": "gpt2_pico", "cache": cache, "first_update_seconds": 9.0, "compile_seconds": None}
         for cache in ("cold", "warm")]  # fmt: skip
BED = curves.Bed("gpt2_pico", 64, 16, 256, 300, "cpu")
TINY = ["--rehearse", "--minutes", "2", "--device", "cpu", "--seconds", "0.01"]


class Here:
    """A side without its process."""

    made: list[Any] = []  # noqa: RUF012
    broken: tuple[int, ...] = ()  # head_rows that do not run
    most = 10**9  # sequences per pass that fit

    def __init__(self, make):
        self.contender = make()
        Here.made.append(self.contender)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        block_rows(0)

    def ask(self, seconds, function, *arguments):
        if seconds <= 0:
            raise TimeoutError
        if self.contender.setting.head_rows in Here.broken:
            raise ValueError("RuntimeError: it cannot")
        if self.contender.setting.micro > Here.most:
            raise ValueError("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)")
        side.contender = self.contender
        return function(*arguments)


@pytest.fixture
def alone(monkeypatch, tmp_path):
    monkeypatch.setattr(match, "Side", Here)
    monkeypatch.setattr(match, "best_products", lambda setting: 1e12)
    monkeypatch.setattr(start, "measure_start", lambda *_: START)
    monkeypatch.setattr(curves, "measure", lambda *_: 0)
    monkeypatch.setattr(Here, "made", [])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path / "device"
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.enable_flash_sdp(True)


def read(folder, name):
    return json.loads((folder / name).read_text())


def test_throughput_goes_on_and_prints_its_table_last(alone, capsys):
    line = ["--part", "train", *TINY, "--output", str(alone)]
    bench_suite.main([*line, "--rounds", "1"])
    assert "nothing is left of this part" in capsys.readouterr().out
    assert len(read(alone, "throughput.json")["rounds"]) == len(Here.made) == 1
    bench_suite.main([*line, "--rounds", "2", "--variants", "head_rows=16,micro=2"])
    book, shown = read(alone, "throughput.json"), capsys.readouterr().out
    assert len(Here.made) == 1 + 1 + 2 + 2
    rows = {row["variant"]: row for row in book["rows"]}
    assert {variant: row["rounds"] for variant, row in rows.items()} == {"plain": 2, "head_rows=16": 2, "micro=2": 2}
    assert (rows["plain"]["micro_batch"], rows["micro=2"]["micro_batch"]) == (4, 2)
    for row in rows.values():
        assert row["lowest"] <= row["tokens_per_second"] <= row["highest"]
        assert row["of_matmul"] == pytest.approx(row["tokens_per_second"] * row["flops_per_token"] / 1e12)
        assert row["mfu"] is None  # of a CPU
        assert row["peak_bytes"] > 0
    assert rows["plain"]["beside"] is None
    assert rows["micro=2"]["beside"]["what"] == "plain"
    assert shown.rindex("| gpt2_pico | halfstep | micro=2 |") > shown.rindex("round 2")
    assert "nanogpt is left out: give --nanogpt" in shown
    bench_suite.main([*line, "--rounds", "2", "--variants", "head_rows=16,micro=2"])
    assert len(Here.made) == 6  # nothing was left
    manifest = read(alone, "manifest.json")
    assert len(manifest["calls"]) == 3
    assert all(call["begun"] < call["kept"] for call in manifest["calls"])
    assert {"device", "versions", "git"} <= manifest.keys()


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


def test_no_time_is_left(alone, capsys):
    bench_suite.main(["--part", "train", *TINY, "--output", str(alone), "--minutes", "0.01"])
    assert "left: the same command goes on" in capsys.readouterr().out
    assert Here.made == []


def test_other_settings_do_not_mix(alone, capsys):
    bench_suite.main(["--part", "train", *TINY, "--output", str(alone), "--rounds", "1"])
    before = (alone / "throughput.json").read_bytes()
    with pytest.raises(SystemExit, match="2"):
        bench_suite.main(["--part", "train", *TINY, "--output", str(alone), "--rounds", "1", "--tokens", "1024"])
    assert "was measured with tokens=512 and not 1024" in capsys.readouterr().err
    assert (alone / "throughput.json").read_bytes() == before


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


def test_a_side_that_fails_in_a_round_is_out_and_the_other_rate_is_kept(alone, monkeypatch, capsys):
    monkeypatch.setattr(Here, "broken", ())
    about = side.about

    def full():
        if side.contender.setting.head_rows == 16:
            raise ValueError("OutOfMemoryError: CUDA out of memory")
        return about()

    monkeypatch.setattr(side, "about", full)
    line = ["--part", "train", *TINY, "--output", str(alone), "--rounds", "1", "--variants", "head_rows=16"]
    bench_suite.main(line)
    assert "gpt2_pico, halfstep (head_rows=16): OutOfMemoryError: CUDA out of memory" in capsys.readouterr().out
    rounds = read(alone, "throughput.json")["rounds"]
    assert [(row["match"], row["variant"]) for row in rounds] == [("plain", "plain"), ("head_rows=16", "plain")]


def test_the_start_is_kept_row_by_row_and_a_failure_of_it_ends_it(alone, monkeypatch, capsys):
    ends = [TimeoutError(), ValueError("train.py did not run: no")]

    def measured(*_):
        yield START[0]
        raise ends.pop(0)

    monkeypatch.setattr(start, "measure_start", measured)
    line = ["--part", "train", *TINY, "--output", str(alone), "--rounds", "1"]
    bench_suite.main(line)
    assert "1 left: the same command goes on" in capsys.readouterr().out
    assert [row["cache"] for row in read(alone, "throughput.json")["start"]] == ["cold"]
    bench_suite.main(line)
    assert [row["cache"] for row in read(alone, "throughput.json")["start"]] == ["cold"]
    shown = capsys.readouterr().out
    assert "gpt2_pico, train.py (plain): train.py did not run: no" in shown
    assert "nothing is left of this part" in shown


def test_what_a_program_takes_too_long_for_leaves_the_rates(alone, monkeypatch):
    turns = []

    def rate(micro, folder, seconds):
        turns.append((micro, folder.is_dir()))
        if len(turns) == 1:
            raise TimeoutError
        return 5.0

    theirs = Program("theirs.py", "halfstep", "theirs.py", "gpt2_pico", rate, 12, as_loop=True)
    broken = Program("broken.py", "broken", "plain", "gpt2_pico", mocked_failure, 64)
    monkeypatch.setattr(suite_train, "peers", lambda *_: (None, [theirs, broken]))
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
    assert rounds() == (plain, [])
    bench_suite.main([*line, "--minutes", "9"])
    found, failures = rounds()
    assert found == [*plain, *2 * [("halfstep", "theirs.py", 2)]]
    assert [(each["system"], each["error"]) for each in failures] == [("broken", "no CUDA")]
    assert turns == 3 * [(4, True)]  # as many sequences per pass as halfstep's own side, of the same system
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


def test_small_things():
    assert folder_name("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
    assert markdown({"a": "a", "b": lambda row: f"{row['b']:.1f}"}, [{"a": "x|y", "b": 2}, {"b": 0}]) == (
        "| a | b |\n| --- | --- |\n| x/y | 2.0 |\n|  | 0.0 |\n"
    )
    assert Deadline(1).fits(59)
    assert not Deadline(1).fits(61)
