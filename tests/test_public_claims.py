"""Claims that rest on runs that others published."""

import dataclasses
import json
import math

import pytest
import yaml

from judge.claims.claim_file import find_claim, read_claim
from judge.claims.public import NOT_SEEN, hull, verify_public
from judge.claims.tables import render
from judge.estimate import Speedup
from scripts import claims, public
from tests.foreign import write_text
from tests.published import SIZES, write_studies


@pytest.fixture
def studies(tmp_path, monkeypatch):
    return write_studies(tmp_path, monkeypatch)


def test_one_interval_holds_those_of_all_cells():
    assert hull([Speedup(1.2, 1.1, 1.3), Speedup(1.25, 1.15, 1.4)]) == Speedup(math.sqrt(1.5), 1.1, 1.4)
    assert hull([Speedup(1.2, None, 1.3), Speedup(1.2, 1.15, 1.4)]).interval == "… to 1.40"
    assert hull([Speedup(1.0, None, 1.02, "below")]) == Speedup(1.0, None, 1.02, "below")
    assert hull([Speedup(1.0, None, 1.02, "below"), Speedup(1.0, 0.9, None, "above")]).value is None


def claim(path, **evidence):
    says = {"says": "twice", "measure": "speedup", "arm": "soap", "against": "adamw", "at_least": 2.0, "tolerance": 0.1}
    shown = {"study": "tabled", "arm": "soap", "against": "AdamW", "may_say": "no more than this", **evidence}
    write_text(path, yaml.safe_dump({"sentence": "It is.", "source": "us", "statements": [says], "public": [shown]}))
    return path


def test_a_claim_is_verified_by_public_runs_alone(studies, capsys):
    public.main(["collect", "tabled", "checkout"])
    path = claim(studies / "mine.yaml")
    capsys.readouterr()
    verdict = verify_public(read_claim(path))
    assert verdict.words == {f"tabled {size}": "not seen in these runs" for size in SIZES}
    claims.main(["verify", str(path)])
    assert "not seen in these runs" in capsys.readouterr().out
    claims.main(["verify", str(path), "--scale", "public", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert [each["verdict"] for each in shown["statements"]] == ["not seen in these runs"] * 3
    for form in ("markdown", "latex", "csv"):
        assert "soap" in render(verdict, form)
    assert verify_public(read_claim(path), ["tabled 300m"]).parts == ["tabled 300m"]
    with pytest.raises(ValueError, match="rests on runs of others alone: claims verify --scale public"):
        read_claim(path).scale("tiny")
    with pytest.raises(ValueError, match="no public part tabled 9b: there are tabled 130m"):
        verify_public(read_claim(path), ["tabled 9b"])


@pytest.mark.parametrize(
    ("at_least", "papers_own", "word"),
    [(1.3, False, "reproduced"), (1.45, False, "underpowered"), (2, False, NOT_SEEN), (2, True, "refuted")],
)  # fmt: skip
def test_the_verdict_of_public_runs(studies, at_least, papers_own, word):
    public.main(["collect", "tabled", "checkout"])
    read = read_claim(claim(studies / "mine.yaml", papers_own=papers_own, sizes="130m"))
    statement = dataclasses.replace(read.statements[0], at_least=at_least)
    assert verify_public(dataclasses.replace(read, statements=[statement])).words == {"tabled 130m": word}


@pytest.mark.parametrize(
    ("evidence", "sentence"),
    [
        ({"study": "tabld"}, "there is no public study 'tabld'"),
        ({"arm": "sopa"}, r"public\[0\].arm 'sopa' is no arm: did you mean soap"),
        ({"sizes": "7b"}, r"public\[0\].sizes '7b' is like no size of soap"),
        ({"beside": "thrice"}, r"public\[0\].beside 'thrice' is like no statement on a speed-up in steps"),
        ({"sigma": {"value": 0.01, "source": ""}}, "a declared sigma needs its source"),
    ],
)
def test_wrong_evidence_is_one_sentence(studies, evidence, sentence):
    public.main(["collect", "tabled", "checkout"])
    with pytest.raises(ValueError, match=sentence):
        read_claim(claim(studies / "mine.yaml", **evidence))


def test_a_declared_sigma_of_the_claim_decides_its_width(studies):
    public.main(["collect", "tabled", "checkout"])
    widths = []
    for value in (0.001, 0.004):
        sigma = {"value": value, "source": "elsewhere", "freedom": 50}
        estimate = verify_public(read_claim(claim(studies / "mine.yaml", sigma=sigma))).findings[0].main.estimate
        widths.append(math.log(estimate.high / estimate.low))
    assert 2 < widths[1] / widths[0] < 6


@pytest.mark.parametrize("name", ["sophia_2x", "soap_40_35", "shampoo_20", "muon_2x", "track3_record"])
def test_the_claims_that_public_runs_test_have_a_verdict(name):
    verdict = verify_public(find_claim(name))
    assert verdict.findings
    assert all(each.main.estimate.interval for each in verdict.findings)
    assert "refuted" not in verdict.words.values() or name == "track3_record"
