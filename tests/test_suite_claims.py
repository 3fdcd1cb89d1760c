"""bench_suite's claims: their order, what is begun in a call, and another corpus."""

import pytest

from harness.claims.claim_file import find_claim
from scripts import bench_suite
from scripts.suite import claims as suite_claims
from scripts.suite.folder import Folder


def test_claims_come_in_order_and_only_what_fits_begins(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    begun = []
    monkeypatch.setattr(suite_claims, "check_arms", lambda *_: None)
    monkeypatch.setattr(suite_claims, "sweep", lambda jobs, overrides, deadline: begun.append((jobs, overrides)))
    line = ["--part", "claims", "--device", "cpu", "--output", str(tmp_path / "device"), "--set", "checkpoint.every=9"]
    bench_suite.main([*line, "--only", "sophia_2x,muon_2x"])
    (((first,), overrides),) = begun
    assert (first.claim.name, first.scale, first.arm, first.seed) == ("sophia_2x", "small", "adamw", 0)
    assert overrides == ["device=cpu", "checkpoint.every=9"]
    assert "| sophia_2x | 27 | 0 | 0 |" in capsys.readouterr().out
    stages = [stage.claim for stage in suite_claims.STAGES]
    plan = suite_claims.Plan("small", [], [], {}, [])
    todo, took = suite_claims._line(plan, {name: find_claim(name) for name in stages})
    assert [job.claim.name for job in todo[:10]] == ["sophia_2x"] * 9 + ["soap_40_35"]
    assert {job.arm for job in todo[:9]} == {"adamw"}
    assert [job.seed for job in todo[:9]] == [0] * 3 + [1] * 3 + [2] * 3
    assert took == {}
    choose, known = suite_claims.choose, {suite_claims._kind(todo[0]): 0.01}
    assert choose(todo, {}, 100, begun=True) == todo[:1]  # nobody knows how long it takes
    expected = suite_claims.MARGIN * 0.01 * todo[0].steps
    assert choose(todo, known, 1.01 * expected, begun=True) == todo[:1]
    assert choose(todo, known, 0.9 * expected, begun=True) == []
    assert choose(todo, known, 0.9 * expected, begun=False) == todo[:1]  # it has the whole call, and may go on
    assert choose(todo, known, 1e6, begun=False) == todo[:9]


def test_a_claim_on_another_corpus_is_a_file_of_its_own(tmp_path):
    data = suite_claims.check_data(["data=local", "data.files=[a.jsonl,b.jsonl]", "eval.tokens=1000"])
    claim = suite_claims.Plan("small", [], data, {"soap": 0.5}, []).find("soap_40_35", Folder(tmp_path))
    assert claim.name == "soap_40_35.local"
    chosen = claim.scale("small").overrides("30m_large", "soap")
    assert (chosen["data"], chosen["data.files"]) == ("local", ["a.jsonl", "b.jsonl"])
    assert (chosen["batch.tokens"], chosen["optimizer.lr"]) == (131072, 0.5)
    assert claim.scale("small").overrides("30m_large", "adamw")["optimizer.lr"] == 2e-3
    assert claim.scale("small").may_say.endswith("On data=local, not on the corpus of the claim.")
    other = suite_claims.Plan("small", [], ["data=local", "data.files=c.jsonl"], {}, [])
    with pytest.raises(ValueError, match="was written for other --data"):
        other.find("soap_40_35", Folder(tmp_path))
