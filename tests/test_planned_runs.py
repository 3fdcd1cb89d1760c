"""Planned runs through train.py's own sweep: what failed is said by name, and a deadline leaves what goes on."""

from pathlib import Path

import pytest

from harness.command_line import composed
from harness.sweep.planned import plan_run, refuse_fixed, sweep_runs, sweep_until

STUDY = Path("results/runs/planned")
SMALL = ["model=gpt2_pico", "context=16", "batch.tokens=32", "eval.tokens=32", "device=cpu", "steps=2", "study=planned"]


def test_a_sweep_says_what_failed_and_goes_on_after_its_deadline(here, capsys):
    values = composed(SMALL)
    sound = [plan_run(values, {"seed": seed}, STUDY) for seed in (0, 1)]
    broken = plan_run(values, {"data.name": "nowhere"}, STUDY, name="broken")
    assert len({run.name for run in (*sound, broken)}) == 3
    assert (sound[0].steps, sound[0].tokens) == (2, 64)

    ending = sweep_runs(sound, STUDY, [], seconds=0)
    assert ending.timed_out
    assert not any(run.ended for run in sound)

    ending = sweep_runs([broken, sound[0]], STUDY, [])
    assert (ending.code, ending.timed_out) == (2, False)
    assert list(ending.failed) == ["broken"]
    assert "nowhere" in ending.failed["broken"]
    assert sound[0].ended
    assert not broken.ended
    with pytest.raises(SystemExit) as stopped:  # no second is left
        sweep_until(sound[1:], STUDY, [], end=0.0)
    assert stopped.value.code == 0
    assert capsys.readouterr().out.endswith("the time is over, 1 runs are left: the same command goes on\n")
    assert not sound[1].folder.exists()


def test_what_a_file_fixes_stays():
    refuse_fixed(["launcher=local", "+tracker=wandb", "hydra/sweeper=x", "data.dir=/d", "launcher.jobs=2"], "a claim")
    refuse_fixed(["data.repository=/copy", "data.tokenizer=hf:/t5"], "a claim")
    for override in ("steps=3", "data=local", "optimizer.lr=1", "dtyp=x"):
        with pytest.raises(ValueError, match=rf"{override} would change what a claim fixes: give launcher, tracker"):
            refuse_fixed([override], "a claim")
