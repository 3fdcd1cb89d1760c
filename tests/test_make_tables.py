"""Every table that is committed is, byte for byte, what the committed runs say."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from conventions.config_keys import CONFIGS
from judge import publication
from judge.claims.claim import CLAIMS
from judge.claims.claim_file import read_claim
from scripts import make_tables, publish
from scripts.make_tables import tables
from scripts.study.claim_runs import ClaimRuns
from tests.claimed import train
from tests.command import environment
from tests.test_bench import CALL, rates
from tests.tuned import Pretended

ROOT = CONFIGS.parent


def test_the_tables_are_what_the_runs_say():
    result = tables(ROOT)
    assert len(result) >= 3
    for path, text in result.items():
        assert path.read_text() == text, f"{path}: make tables writes it anew"


@pytest.fixture
def copied(tmp_path):
    """README and a small part of results/, to change at will."""
    shutil.copytree(ROOT / "results" / "demo_of_six", tmp_path / "results" / "study")
    (tmp_path / "README.md").write_text("Above.\n<!-- results/study/table.md -->\nold\n<!-- end -->\nBelow.\n")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text("No table.\n")
    return tmp_path


def test_a_changed_run_changes_its_table_and_readme(copied):
    before = tables(copied)
    metrics = copied / "results" / "study" / "muon" / "metrics.jsonl"
    *others, last = metrics.read_text().splitlines()
    metrics.write_text("\n".join([*others, last.replace('"val/loss": 1.', '"val/loss": 2.')]) + "\n")
    after = tables(copied)
    table, readme = copied / "results" / "study" / "table.md", copied / "README.md"
    assert before.keys() == after.keys() == {table, readme}
    assert "| muon | 1 | 1 | 1.43" in before[table]
    assert "| muon | 1 | 1 | 2.43" in after[table]
    assert after[readme] == f"Above.\n<!-- results/study/table.md -->\n{after[table]}<!-- end -->\nBelow.\n"


def test_a_page_of_the_documentation_has_its_tables_too(copied):
    page = copied / "docs" / "page.md"
    page.write_text("Above.\n<!-- results/study/table.md -->\n<!-- end -->\nBelow.\n")
    result = tables(copied)
    table = result[copied / "results" / "study" / "table.md"]
    assert result[page] == f"Above.\n<!-- results/study/table.md -->\n{table}<!-- end -->\nBelow.\n"


def test_a_page_may_hold_the_first_lines_of_a_table_alone(copied):
    readme = copied / "README.md"
    readme.write_text("<!-- results/study/table.md, 3 lines -->\n<!-- end -->\n")
    result = tables(copied)
    first = "".join(result[copied / "results" / "study" / "table.md"].splitlines(keepends=True)[:3])
    assert result[readme] == f"<!-- results/study/table.md, 3 lines -->\n{first}<!-- end -->\n"


@pytest.mark.parametrize("page", ["README.md", "docs/page.md"])
def test_a_table_that_no_study_makes_is_refused(copied, page):
    (copied / "README.md").write_text("No table.\n")
    (copied / page).write_text("<!-- results/other/table.md -->\n<!-- end -->\n")
    with pytest.raises(ValueError, match=rf"{page} wants results/other/table.md, which no study makes"):
        tables(copied)


def test_a_devices_tables_are_made_from_its_store(copied):
    place = copied / "results" / "hardware" / "gpu"
    place.mkdir(parents=True)
    rows = [CALL, *rates("halfstep", "nanogpt", 0.9, 1.08)]
    (place / "measurements.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    name = "results/hardware/summary.md"
    (copied / "README.md").write_text(f"<!-- {name} -->\n<!-- end -->\n")
    result = tables(copied)
    assert "| gpt2_125m | halfstep | 582,542 |" in result[place / "table.md"]
    assert result[copied / "README.md"] == f"<!-- {name} -->\n{result[copied / name]}<!-- end -->\n"
    assert "| gpt2_125m | nanogpt | 485,452 |" in result[copied / name]
    assert place.parent / "table.md" not in result


@pytest.fixture
def swept(copied, monkeypatch):
    """A claim on another corpus, its rates found by trials, and what scripts.publish makes of its runs."""
    monkeypatch.chdir(copied)  # for results/runs
    values = yaml.safe_load((CLAIMS / "shampoo_20.yaml").read_text())
    small = values["scales"]["small"]
    small["config"] |= {"data": "local", "data.files": "/nowhere/x.jsonl"}
    values["scales"] = {"small": {**small, "rate_trials": 2, "may_say": "On a corpus of our own."}}
    path = copied / "results" / "claims" / "shampoo_20.local.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    claim = read_claim(path)
    asked = ClaimRuns(claim, "small", list(claim.scale("small").parts), [0, 1, 2])
    assert all(arm.config is None for plan in asked.plans().values() for arm in plan.arms.values())
    for trial in asked.trials():
        Pretended(optimum=3e-3).write(trial)
    for tuner in asked.tuners.values():
        tuner.begin()
    train(claim, "small", Path("results/runs"), {"soap": 1.5}, noise=0.002)
    monkeypatch.setattr(publication, "RESULTS", copied / "results")
    publish.main([str(path) for path in Path("results/runs").iterdir()])
    small["parts"]["60m"] = {"steps": 4000}  # a part without runs: no table has a row of it
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return copied


def test_a_claim_whose_rates_were_tried_has_its_tables(swept):
    result = tables(swept)
    claims, file = swept / "results" / "claims", "results/claims/shampoo_20.local.yaml"
    assert (swept / "results" / "shampoo_20.local-small-30m" / "plan.yaml").is_file()
    text = result[claims / "shampoo_20.local-small.md"]
    assert f"{file} --scale small --part 30m` makes the runs again" in text
    assert "- shampoo: the best of 2 settings of its rates at 1,000 updates, lr at an end of what was tried" in text
    assert "; power 1/4, where the paper has 1/2" in text
    assert "unequal tuning" not in text
    assert "| shampoo_20.local, small | 30m | SOAP needs 20 % fewer steps" in result[claims / "verdicts.md"]
    conclusions = result[claims / "conclusions.md"]
    assert "On a corpus of our own." in conclusions
    assert "| small (local) | SOAP needs 20 % fewer steps than Shampoo (≥ 1.25" in conclusions
    assert {path.suffix for path in result if path.stem == "shampoo_20.local-small"} == {".md", ".tex", ".csv"}
    studies = {path.parent.name for path in result if path.name == "table.md"}
    tunings = {path.name for path in (swept / "results").iterdir() if path.name.endswith("-tuning")}
    assert len(tunings) == 2
    assert studies == {"study", *tunings}  # of the claim's own studies none
    (shampoo,) = [text for path, text in result.items() if path.parent.name in tunings and "| shampoo |" in text]
    assert shampoo.startswith(
        "Trials of gpt2_30m on stdlib, 131,072 tokens per update, NVIDIA H100.\n\n| optimizer | lr |"
    )
    assert shampoo.count("| shampoo | ") == 2
    assert shampoo.count("| 1,000 | 1000 |") == 2


def test_what_others_measured_is_as_configs_have_it_now(swept):
    file = swept / "results" / "claims" / "shampoo_20.local.yaml"
    values = yaml.safe_load(file.read_text())
    now = values["others"]
    del values["public"]
    values["others"] = [{"source": "Nobody", "says": "what was corrected since"}]
    values["statements"][0]["says"] = "in words of then"
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    text = tables(swept)[swept / "results" / "claims" / "conclusions.md"]
    assert "Nobody" not in text
    assert now[0]["source"] in text


def test_whose_runs_they_are_must_be_known(swept):
    file = swept / "results" / "claims" / "shampoo_20.local.yaml"
    assert len(tables(swept)) > 3
    text = file.read_text()
    file.write_text(text.replace("seeds:", "steps: 3000\n    seeds:", 1).replace("steps: 2000", "", 1))
    with pytest.raises(
        ValueError, match=r"plan.yaml is of another version of .*shampoo_20.local.yaml \(T 2000, not 3000"
    ):
        tables(swept)
    file.unlink()
    with pytest.raises(ValueError, match=r"shampoo_20.local-small-30m has runs of a claim whose file is not there"):
        tables(swept)


def test_check_fails_where_a_table_is_stale_and_writes_nothing(copied, monkeypatch, capsys):
    monkeypatch.setattr(make_tables, "ROOT", copied)
    (copied / "results" / "study" / "table.md").unlink()
    with pytest.raises(SystemExit, match="2"):
        make_tables.main(["--check"])
    assert "is not what its runs say: make tables writes it anew" in capsys.readouterr().err
    assert "\nold\n" in (copied / "README.md").read_text()
    assert not (copied / "results" / "study" / "table.md").exists()


def test_a_table_of_runs_that_are_gone_is_told(copied, monkeypatch, capsys):
    monkeypatch.setattr(make_tables, "ROOT", copied)
    make_tables.main([])
    make_tables.main(["--check"])
    lone = [copied / "results" / "gone" / "table.md", copied / "results" / "claims" / "gone-tiny.tex"]
    for path in lone:
        path.parent.mkdir()
        path.write_text("of runs that were")
        with pytest.raises(SystemExit, match="2"):
            make_tables.main(["--check"])
        expected = f"{path.relative_to(copied)} is a table of runs that are not there"
        assert expected in capsys.readouterr().err
        make_tables.main([])
        assert expected in capsys.readouterr().out
        path.unlink()


@pytest.mark.slow
def test_the_committed_tables_pass_the_check():
    line = [sys.executable, "-m", "scripts.make_tables", "--check"]
    done = subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
