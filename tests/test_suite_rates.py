"""The trials of bench_suite's claims: which keys they are about, and what is told of the best."""

import pytest

from judge.claims.claim_file import find_claim
from scripts.suite import rates
from tests.tuned import Pretended


def test_rates_are_known_by_their_names():
    section = {"name": "x", "adamw_lr": 1e-3, "lr": 2, "lr_decay": 0.5, "color": 1.0, "my_lr": None, "no_lr": 0.0}
    assert list(rates.rates_of(section).items()) == [("optimizer.lr", 2.0), ("optimizer.adamw_lr", 1e-3)]


def test_what_a_note_says_beside_the_rates_stays():
    scale = {"arms": {"new": {"note": "a guess; power 1/4"}, "old": {}}, "parts": {"a": {}, "b": {}}}
    for part in scale["parts"]:
        rates.put(scale, part, "new", {"optimizer.lr": 1.0}, 4, "the best of 4")
    rates.put(scale, "a", "old", {"optimizer.lr": 1.0}, 0, "by hand")
    assert [arm["note"] for arm in scale["arms"].values()] == ["the best of 4; power 1/4", "by hand"]
    rates.put(scale, "b", "new", {"optimizer.lr": 1.0}, 4, "the best of 4", ["optimizer.lr"])
    assert scale["arms"]["new"]["note"] == "the best of 4, lr (b) at an end of what was tried; power 1/4"
    assert scale["arms"]["new"]["at_an_end"] == ["lr (b)"]


def test_an_arm_names_what_its_trials_are_about(tmp_path):
    claim = find_claim("mkor")
    sweep = rates.Sweep.of(claim, "small", "30m", "kfac", 4)
    assert sweep.about == "damping and kl_clip"
    damping, clip = sweep.tuner.space.values()
    assert (damping.low, damping.high) == (1e-4, 1e-1)  # of configs/tuning.yaml
    assert (clip.low, clip.high) == (1e-3 / 4, 1e-3 * 4)
    settings = [each.values["optimizer"] for each in sweep.trials]
    assert len({each["damping"] for each in settings}) == len({each["kl_clip"] for each in settings}) == 4
    assert {each["lr"] for each in settings} == {0.1}
    assert rates.Sweep.of(claim, "small", "30m", "lamb", 4).about == "its rates"
    claim.scale("small").arms["kfac"].sweep[:] = ["optimizer.method"]
    with pytest.raises(ValueError, match=r"arms.kfac.sweep: optimizer.method is eigen: name keys"):
        rates.Sweep.of(claim, "small", "30m", "kfac", 4)


def test_where_all_trials_diverge_the_claims_own_rate_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep = rates.Sweep.of(find_claim("muon_2x"), "small", "30m", "adamw", 2)
    for each in sweep.trials:
        assert sweep.row("30m", "adamw") is None
        Pretended(limit=0.0).write(each)
    row = sweep.row("30m", "adamw")
    assert row["rates"] == {"optimizer.lr": 2e-3}
    assert (row["diverged"], row["loss"], row["at_an_end"]) == (2, None, [])
    assert "diverged; " in rates.table([row])
