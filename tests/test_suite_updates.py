"""Whole updates in part optimizers: whose they are, what is kept of them, and that they go on."""

import json

import pytest

from optimizers import list_optimizers
from scripts import bench_suite
from scripts.suite import exactness, updates
from scripts.suite import optimizers as suite_optimizers
from scripts.suite.folder import Folder
from tests.suite import TINY, Here, read
from tests.test_suite_optimizers import row_of

LINE = ["--part", "optimizers", *TINY[:-2]]  # --seconds is of train alone


@pytest.fixture
def steps(alone, monkeypatch):
    """No step but a moment's; what is left are whole updates."""
    monkeypatch.setattr(suite_optimizers, "measure", lambda plan, model, name, *_: [row_of(model, name)])
    monkeypatch.setattr(exactness, "measure", lambda *_: 0)
    return alone


def test_those_that_ask_for_more_than_a_gradient_and_a_step():
    names = [info.name for info in list_optimizers()]
    assert updates.beyond_steps(names) == ["adahessian", "kfac", "mkor", "mkor_h", "sophia_g", "sophia_h"]


def test_an_update_is_timed_beside_adamws_and_kept(steps, capsys):
    bench_suite.main([*LINE, "--output", str(steps), "--only", "lion,sophia_g", "--rounds", "2"])
    (row,) = read(steps, "optimizers.json")["updates"]
    assert (row["optimizer"], row["model"], row["tokens"], row["rounds"]) == ("sophia_g", "gpt2_pico", 512, 2)
    assert row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"]
    assert row["extra_share"] == pytest.approx(1 / row["ratio"]["median"] - 1)
    # AdamW's update was measured along with it, without part train.
    step = read(steps, "optimizers.json")["rows"][0]
    assert step["share_of_step"] == pytest.approx(2e-3 * row["adamw_tokens_per_second"] / 512)
    assert [type(one.optimizer).__name__ for one in Here.made] == ["AdamW", "SophiaG"]
    assert {r["match"] for r in read(steps, "throughput.json")["rounds"]} == {"optimizer=sophia_g"}
    shown = capsys.readouterr().out
    assert "| sophia_g | gpt2_pico |" in shown
    assert "nothing is left of this part" in shown
    bench_suite.main([*LINE, "--output", str(steps), "--only", "lion,sophia_g", "--rounds", "2"])
    assert len(Here.made) == 2  # they were done


def test_no_time_leaves_them_to_the_next_call(steps, capsys):
    line = [*LINE, "--output", str(steps), "--only", "sophia_g", "--rounds", "1"]
    bench_suite.main([*line, "--minutes", "0.9"])  # the first step has a call's whole time
    assert Here.made == []
    assert "1 left: the same command goes on" in capsys.readouterr().out
    assert read(steps, "optimizers.json")["updates"] == []
    bench_suite.main(line)
    assert len(read(steps, "optimizers.json")["updates"]) == 1


def test_an_update_that_does_not_run_is_a_row_with_its_error(steps, monkeypatch, capsys):
    ask = Here.ask

    def broken(self, seconds, function, *arguments):
        if self.contender.setting.optimizer:
            raise ValueError("RuntimeError: it cannot")
        return ask(self, seconds, function, *arguments)

    monkeypatch.setattr(Here, "ask", broken)
    bench_suite.main([*LINE, "--output", str(steps), "--only", "sophia_g", "--rounds", "1"])
    (row,) = read(steps, "optimizers.json")["updates"]
    assert (row["optimizer"], row["error"]) == ("sophia_g", "RuntimeError: it cannot")
    shown = capsys.readouterr().out
    assert "| sophia_g | gpt2_pico |  |  |  |  |  |  |  |  | RuntimeError: it cannot |" in shown
    assert "nothing is left of this part" in shown


def test_one_that_hangs_fails_once_and_the_next_has_its_turn(steps, monkeypatch):
    ask, late = Here.ask, []

    def slow(self, seconds, function, *arguments):
        if self.contender.setting.optimizer == "sophia_g":
            late.append(seconds)
            raise TimeoutError
        return ask(self, seconds, function, *arguments)

    monkeypatch.setattr(Here, "ask", slow)
    line = [*LINE, "--output", str(steps), "--only", "sophia_g,mkor", "--rounds", "1"]
    for _ in range(2):
        bench_suite.main(line)
        held = {row["optimizer"]: row.get("error") for row in read(steps, "optimizers.json")["updates"]}
        assert held == {"mkor": None, "sophia_g": "its first updates did not end within 60 s"}
    assert len(late) == 1


def test_updates_are_of_part_trains_tokens_and_other_settings_are_refused_at_once(steps, monkeypatch, capsys):
    bench_suite.main(["--part", "train", *TINY, "--output", str(steps), "--rounds", "1", "--tokens", "256"])
    bench_suite.main([*LINE, "--output", str(steps), "--only", "sophia_g", "--rounds", "1"])
    assert read(steps, "optimizers.json")["updates"][0]["tokens"] == 256
    assert read(steps, "optimizers.json")["rows"][0]["step_tokens"] == 256
    (steps / "optimizers.json").unlink()
    with pytest.raises(SystemExit, match="2"):
        bench_suite.main([*LINE, "--output", str(steps), "--only", "sophia_g", "--vocabulary", "512"])
    assert "was measured with vocabulary=256 and not 512" in capsys.readouterr().err
    assert not (steps / "optimizers.json").exists()


def test_rounds_that_one_side_alone_has_do_not_count(tmp_path):
    def side(number, variant, rate):
        return {"model": "m", "match": "optimizer=kfac", "round": number, "system": "halfstep", "variant": variant,
                "tokens_per_second": rate, "micro_batch": 4, "commit": "abc"}  # fmt: skip

    rounds = [side(0, "plain", 100.0), side(0, "optimizer=kfac", 50.0), side(1, "plain", 100.0)]
    failures = [{"model": "m", "system": "halfstep", "variant": "optimizer=kfac+micro=2", "error": "no"}]
    book = {"identity": {"tokens": 512}, "rounds": rounds, "failures": failures}
    (tmp_path / "throughput.json").write_text(json.dumps(book))
    (row,) = updates.rows(Folder(tmp_path))
    assert (row["rounds"], row["ratio"]["median"], row["extra_share"]) == (1, 0.5, 1.0)
    book["rounds"] = rounds[:1]
    (tmp_path / "throughput.json").write_text(json.dumps(book))
    assert updates.rows(Folder(tmp_path)) == []
