"""Logs are taken apart into runs: several in one file, repeats, resumes, clocks, and losses of changed weights."""

import pytest

from judge.readers.series import cut, without_repeats
from tests.foreign import MODDED, foreign, write_text


def line(step, loss, total=300, seconds=None, more=""):
    clock = f" train_time:{step / 5 if seconds is None else seconds:.3f}s step_avg:200.00ms{more}"
    return f"step:{step}/{total} val_loss:{loss:.5f}{clock}\n"


def log(tmp_path, *lines, name="a.log"):
    return write_text(tmp_path / name, "".join(lines))


def runs_of(tmp_path, *lines):
    return foreign(log(tmp_path, *lines))


def losses(run):
    return {int(row["step"]): row["val/loss"] for row in run.evaluations}


def test_a_file_with_several_runs(tmp_path):
    one = [line(0, 10.82), line(100, 5.0), line(300, 4.0)]
    two = [line(0, 10.82), line(100, 5.1), line(300, 4.1)]  # the same first line: equal initial weights
    first, second = runs_of(tmp_path, *one, *two)
    assert (losses(first), losses(second)) == ({0: 10.82, 100: 5.0, 300: 4.0}, {0: 10.82, 100: 5.1, 300: 4.1})
    assert (first.name[-2:], second.name[-2:]) == ("#0", "#1")
    assert (first.lines, second.lines) == ((1, 3), (4, 6))
    assert "one of 2 runs in its file" in first.notes


def test_runs_of_several_lengths_in_one_file(tmp_path):
    first, second = runs_of(tmp_path, line(100, 5), line(300, 4), line(200, 4.5, total=200))
    assert (losses(first), losses(second)) == ({100: 5, 300: 4}, {200: 4.5})


def test_a_run_that_was_begun_anew_in_its_file_is_no_short_run(tmp_path):
    crashed, whole = runs_of(tmp_path, "s:0 tel:10.8\ns:100 tel:5.0\ns:0 tel:10.8\ns:100 tel:5.0\ns:300 tel:4.0\n")
    assert crashed.cut == "it ends at step 100, another of its file at 300"
    assert (whole.cut, losses(whole)) == ("", {0: 10.8, 100: 5.0, 300: 4.0})


def test_a_repeated_tail_is_left_out_and_said(tmp_path):
    tail = [line(200, 4.5), line(300, 4.0)]
    [run] = runs_of(tmp_path, line(100, 5.0), *tail, *tail)
    assert losses(run) == {100: 5.0, 200: 4.5, 300: 4.0}
    assert "printed again from line 4: 2 lines left out" in run.notes


def test_one_line_twice_is_one_run_and_two_lines_are_two(tmp_path):
    [run] = runs_of(tmp_path, line(300, 4.0), line(300, 4.0))
    assert losses(run) == {300: 4.0}
    assert "one evaluation only: no curve" in run.notes
    assert len(runs_of(tmp_path, line(300, 4.0), line(300, 4.1))) == 2


def test_a_resumed_run_that_goes_back(tmp_path):
    before = [line(0, 10.8), line(100, 5.0), line(200, 4.6)]
    [run] = runs_of(tmp_path, *before, line(100, 5.01, seconds=21), line(200, 4.55), line(300, 4))
    assert losses(run) == {0: 10.8, 100: 5.01, 200: 4.55, 300: 4.0}
    assert any(note.startswith("goes back from step 200 to 100 at line 4") for note in run.notes)
    assert run.rows[-1]["seconds/total"] == 60


def test_a_resumed_run_whose_clock_began_anew_has_no_seconds(tmp_path):
    [run] = runs_of(tmp_path, line(0, 10.8), line(100, 5), line(200, 4.6), line(300, 4, seconds=20))
    assert not any("seconds/total" in row for row in run.rows)
    assert any("clock goes back" in note for note in run.notes)


def test_a_continued_run_has_no_seconds(tmp_path):
    [run] = runs_of(tmp_path, line(200, 4.6, seconds=0), line(250, 4.2, seconds=10), line(300, 4, seconds=20))
    assert not any("seconds/total" in row for row in run.rows)
    assert "its first evaluation is at step 200, not 0" in run.notes


def test_a_missing_step_0_keeps_its_seconds(tmp_path):
    [run] = runs_of(tmp_path, line(100, 5.0, seconds=60), line(200, 4.5, seconds=80), line(300, 4, seconds=100))
    assert run.rows[-1]["seconds/total"] == 100


def test_marks_of_changed_weights_are_said(tmp_path):
    early = [line(step, 6 - step / 100, more=" ema_beta:0") for step in (50, 100, 150, 200)]
    [run] = runs_of(tmp_path, *early, line(300, 3.5, more=" ema_beta:0 ref_gamma:-0.075"))
    assert any("its last line has ref_gamma=-0.075" in note for note in run.notes)
    [plain] = runs_of(tmp_path, *early, line(300, 3.5, more=" ema_beta:0"))
    [short] = runs_of(tmp_path, line(0, 10.8, more=" gap:1"), line(300, 3.5, more=" gap:2"))  # one line is no habit
    assert not any("its last line has" in note for note in (*plain.notes, *short.notes))


@pytest.mark.parametrize(("last", "output"), [(3.2797, True), (3.2833, False)])
def test_a_sudden_last_drop_is_said(tmp_path, last, output):
    curve = [(2000 + 5 * n, 3.3 - 0.0004 * n * 4) for n in range(10)]
    curve.append((2050, curve[-1][1] - (0.0039 * 3 if output else 0.0014)))
    [run] = runs_of(tmp_path, *(line(step, loss, total=2050) for step, loss in curve))
    assert any("averaged weights" in note for note in run.notes) is output


def test_other_losses_of_the_last_line_are_said_and_can_be_taken(tmp_path):
    path = log(tmp_path, MODDED.replace("0 train_time", "0 val_ema_loss:3.50000 train_time"))
    [run] = foreign(path)
    assert losses(run)[300] == 3.9
    assert any("--map val/loss=val_ema_loss takes that" in note for note in run.notes)
    [averaged] = foreign(path, "val/loss=val_ema_loss")
    assert losses(averaged)[300] == 3.5


def test_a_run_in_two_files_counts_once(tmp_path):
    lines = [line(0, 10.8), line(100, 5.0), line(300, 4.0)]
    log(tmp_path, *lines, name="a.log")
    log(tmp_path, *lines[1:], name="a.stdout")
    kept, [(name, why)] = without_repeats(foreign(tmp_path))
    assert [len(run.evaluations) for run in kept] == [3]
    assert name.endswith("a.stdout")
    assert "each of its evaluations is in" in why


def test_equal_losses_without_a_clock_are_no_proof_of_a_copy(tmp_path):
    for name in ("a.log", "b.log"):
        write_text(tmp_path / name, "s:300 tel:3.9000\n")
    kept, left = without_repeats(foreign(tmp_path))
    assert (len(kept), left) == (2, [])


def test_a_run_that_went_on_is_stated_at_a_step(tmp_path):
    [run] = runs_of(tmp_path, line(0, 10.8), line(100, 5.0), line(200, 4.5), line(300, 4.0))
    stated = cut(run, 200)
    assert stated.last == 200
    assert "it went on to step 300: stated at 200" in stated.notes
    assert "stated at step 200 of a schedule of 300: not decayed to its end" in stated.notes
    with pytest.raises(ValueError, match="no validation loss at step 150: the nearest is at step 100"):
        cut(run, 150)


def test_a_table_of_runs_is_taken_apart_by_a_column(tmp_path):
    path = write_text(tmp_path / "c.csv", "r,step,loss\nx,0,10\ny,0,10\nx,5,4\ny,5,3\n")
    one, two = foreign(path, "run=r,step=step,val/loss=loss")
    assert (one.name, losses(one)) == ("x", {0: 10, 5: 4})
    assert (two.name, losses(two)) == ("y", {0: 10, 5: 3})
    assert (two.lines, one.source.sha256) == ((3, 5), two.source.sha256)
