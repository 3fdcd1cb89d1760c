"""The workspace in W&B: what is in it, and that W&B's own client saves it to a server and takes it back."""

import json
import subprocess
import sys
import time
from typing import Any

import pytest

from harness.wandb_tracker import group_of
from judge.records import find_runs, read_run
from scripts.dashboard import main
from tests.mirror import bare_client, mirror, open_folder, server
from tests.refusal import refusal
from tests.study import compared, write_run, write_study

pytest.importorskip("wandb_workspaces", reason="scripts.dashboard's own requirement")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # W&B's library has its own


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = write_study(tmp_path_factory.mktemp("dashboard") / "study", {"soap": 1.3, "lion": 0.8}, noise=0.002)
    write_run(folder, "lion", 2000, 7, until=100, status="diverged")
    return folder


def panels(spec: dict[str, Any], section: str) -> list[dict[str, Any]]:
    (result,) = [each for each in spec["section"]["panelBankConfig"]["sections"] if each["name"] == section]
    return [panel["config"] for panel in result["panels"]]


@pytest.fixture(scope="module")
def spec(study):
    from scripts.pages.workspace import build

    view = build(compared(study), "study", "me", "halfstep")._to_model()
    return json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True))


def test_losses_stand_against_every_axis_with_seeds_as_bands(spec):
    losses = panels(spec, "Loss")
    assert [panel["xAxis"] for panel in losses] == ["step", "tokens", "flops/total", "seconds/total"]
    for panel in losses:
        assert panel["metrics"] == ["val/loss"]
        assert (panel["groupBy"], panel["groupAgg"], panel["groupArea"]) == ("group", "mean", "minmax")


def test_learning_rates_overhead_and_win_rates_have_their_sections(spec):
    scatter, _ = panels(spec, "Learning rate")
    assert (scatter["xAxis"], scatter["yAxis"]) == ("config:optimizer.value.lr", "summary:val/loss.last")
    charted = {metric for panel in panels(spec, "Overhead") for metric in panel["metrics"]}
    assert {"flops/curvature", "seconds/optimizer", "seconds/compile", "memory/peak"} < charted
    expected = panels(spec, "Win rate")[0]["value"]
    assert "| soap | 3 of 3 |" in expected
    assert "| lion | 0 of 3 |" in expected  # the baseline has no run of the seed that diverged


def test_it_shows_the_runs_of_the_study_alone(spec, study):
    (runs,) = spec["section"]["runSets"]
    (only,) = runs["filters"]["filters"]
    assert (only["key"], only["op"], only["value"]) == ({"section": "config", "name": "study"}, "=", "study")
    assert runs["grouping"] == [{"section": "run", "name": "group"}]
    groups = {group_of(run.config, "study") for run in find_runs(study)}
    assert len(spec["section"]["customRunColors"]) == len(groups)


def test_a_divergence_is_a_defeat(tmp_path):
    from judge.answer import wins

    write_study(tmp_path, {"soap": 1.3}, seeds=1)
    write_run(tmp_path, "adamw", 2000, 1)
    write_run(tmp_path, "soap", 2000, 1, until=100, status="diverged")
    write_run(tmp_path, "adamw", 2000, 2, until=100, status="diverged")
    write_run(tmp_path, "soap", 2000, 2)
    write_run(tmp_path, "soap", 2000, 3)  # against nobody
    base, soap = (standing.arm for standing in compared(tmp_path).standings)
    assert wins(base, soap) == (2, 3)
    assert wins(soap, base) == (1, 3)


def test_runs_are_in_the_groups_that_the_mirror_gave_them(tmp_path):
    folder = open_folder(tmp_path / "run")
    folder.append({"step": 0})
    to = mirror(folder, mode="disabled")
    folder.close()
    assert to._options["group"] == group_of(read_run(folder.path).config, "study")


def test_it_is_saved_and_changed_where_it_is(study, server, capsys):
    main([str(study), "--project", "gpt2"])
    address = capsys.readouterr().out.strip()
    (view,) = server.views.values()
    assert address == f"{server.url}/me/gpt2?nw={view['name'].removeprefix('nw-').removesuffix('-v')}"
    assert (view["entityName"], view["projectName"], view["displayName"]) == ("me", "gpt2", "halfstep study")
    assert len(panels(json.loads(view["spec"]), "Loss")) == 4

    main([str(study), "--project", "gpt2", "--update", address, "--baseline", "lion"])
    assert capsys.readouterr().out.strip() == address
    (again,) = server.views.values()
    assert again["id"] == view["id"]
    assert "**Against lion**" in panels(json.loads(again["spec"]), "Win rate")[0]["value"]


def test_print_needs_no_server(study, capsys):
    main([str(study), "--print"])
    assert {*json.loads(capsys.readouterr().out)} >= {"section"}


def test_without_a_server_it_says_so(study, capsys):
    sentence = refusal(capsys, main, str(study))
    assert "refused" in sentence
    assert "--print shows it" in sentence


def test_without_a_key_it_says_so(study, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    done = subprocess.run([sys.executable, "-m", "scripts.dashboard", str(study)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "wandb login" in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_the_package_it_says_what_to_install(study, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    sentence = refusal(capsys, main, str(study), "--print")
    assert "pip install -c constraints.txt wandb-workspaces" in sentence


def test_several_studies_are_no_study(tmp_path, capsys):
    write_study(tmp_path / "one", {}, seeds=1)
    write_run(tmp_path / "two", "soap", 2000)
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--print"])
    assert "several studies (one, two)" in capsys.readouterr().err
