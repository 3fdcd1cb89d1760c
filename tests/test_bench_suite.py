"""bench_suite: it goes on where it stopped, a table comes last, and what does not run is a row and no end."""

import pytest

from scripts import bench_suite
from scripts.suite import curves, start
from scripts.suite.folder import Deadline, folder_name, markdown
from tests.suite import START, TINY, Here, read

BED = curves.Bed("gpt2_pico", 64, 16, 256, 300, "cpu")


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


def test_small_things():
    assert folder_name("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
    assert markdown({"a": "a", "b": lambda row: f"{row['b']:.1f}"}, [{"a": "x|y", "b": 2}, {"b": 0}]) == (
        "| a | b |\n| --- | --- |\n| x/y | 2.0 |\n|  | 0.0 |\n"
    )
    assert Deadline(1).fits(59)
    assert not Deadline(1).fits(61)
