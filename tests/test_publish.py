"""What is published is what git should keep, whole or not at all."""

import shutil

import pytest

from judge import publication
from judge.records import find_runs
from scripts import publish
from tests.claimed import change
from tests.study import write_run


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setattr(publication, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    folder = tmp_path / "runs" / "first"
    for seed in range(2):
        run = write_run(folder, seed=seed)
        (run / "checkpoints").mkdir()
        (run / "checkpoints" / "weights").write_text("heavy")
    return folder


def test_copies_config_manifest_and_metrics_and_no_weights(study, tmp_path, capsys):
    publish.main([str(study)])
    published = find_runs(tmp_path / "results" / "first")
    assert [run.final_loss for run in published] == [run.final_loss for run in find_runs(study)]
    assert {path.name for run in published for path in run.folder.iterdir()} == {*publication.KEPT}


def test_one_optimizers_part_alone(study, tmp_path, capsys):
    for optimizer in ("adamw", "lion"):
        write_run(study / optimizer, optimizer, seed=5)
        (study / optimizer / "tuning.yaml").write_text("ranges: {}")
    write_run(study, "lion", seed=6, status="running")  # what is not published may go on
    publish.main([str(study), "--optimizer", "adamw", "--name", "part"])
    part = tmp_path / "results" / "part"
    assert sorted(run.seed for run in find_runs(part)) == [0, 1, 5]
    assert {run.optimizer for run in find_runs(part)} == {"adamw"}
    assert [path.parent.name for path in part.rglob("tuning.yaml")] == ["adamw"]
    with pytest.raises(SystemExit):
        publish.main([str(study), "--optimizer", "lino", "--name", "other"])
    assert "did you mean lion" in capsys.readouterr().err


def test_refuses_what_has_not_ended_and_what_is_there(study, tmp_path, capsys):
    write_run(study, seed=7, status="running")
    with pytest.raises(SystemExit) as leaving:
        publish.main([str(study)])
    assert leaving.value.code == 2
    assert "resume=true" in capsys.readouterr().err
    assert not (tmp_path / "results" / "first").exists()
    (tmp_path / "results" / "taken").mkdir()
    for name, complaint in [("taken", "exists already"), ("demo", "ignored by git")]:
        with pytest.raises(SystemExit):
            publish.main([str(study), "--name", name])
        assert complaint in capsys.readouterr().err


def test_several_at_once_and_none_where_one_is_refused(study, tmp_path, capsys):
    runs, results = study.parent, tmp_path / "results"
    write_run(runs / "second")
    write_run(runs / "third", status="running")
    write_run(tmp_path / "other" / "first")
    for folders, complaint in {
        (study, runs / "second", runs / "third"): "resume=true",
        (study, tmp_path / "other" / "first"): "would both become",
    }.items():
        with pytest.raises(SystemExit):
            publish.main([str(folder) for folder in folders])
        assert complaint in capsys.readouterr().err
        assert not list(results.iterdir())
    with pytest.raises(SystemExit):
        publish.main([str(study), str(runs / "second"), "--name", "one"])
    assert not list(results.iterdir())
    publish.main([str(study), str(runs / "second")])
    assert len(find_runs(results / "first")) == 2
    assert len(find_runs(results / "second")) == 1
    assert [line.rpartition("/")[2] for line in capsys.readouterr().out.splitlines()[-2:]] == ["first", "second"]


def test_a_study_with_more_runs_since_is_completed(study, tmp_path, monkeypatch, capsys):
    target = tmp_path / "results" / "first"
    (study / "tuning.yaml").write_text("ranges: {}")
    publish.main([str(study)])
    (target / "table.md").write_text("made of it")
    before = {path: path.stat().st_ino for path in target.rglob("*.jsonl")}
    write_run(study, seed=8)
    write_run(study / "deeper", "lion", seed=9)
    (study / "tuning.yaml").write_text("ranges: {wider: 1}")
    whole, cut = publication.copy_run, []

    def killed(run, place):
        if cut:
            raise KeyboardInterrupt
        cut.append(run)
        whole(run, place)

    monkeypatch.setattr(publication, "copy_run", killed)
    with pytest.raises(KeyboardInterrupt):
        publish.main([str(study)])
    assert len(find_runs(target)) == 2
    monkeypatch.setattr(publication, "copy_run", whole)
    publish.main([str(study)])
    assert sorted(run.seed for run in find_runs(target)) == [0, 1, 8, 9]
    assert {path: path.stat().st_ino for path in before} == before  # what was there is left alone
    assert (target / "tuning.yaml").read_text() == "ranges: {wider: 1}"
    assert (target / "table.md").read_text() == "made of it"
    assert not list(target.parent.glob(".new-*"))


def test_another_study_of_the_name_is_refused(study, tmp_path, capsys):
    publish.main([str(study)])
    change(find_runs(study)[0].folder, "manifest.json", ended="2027-01-01T01:00:00Z")
    for _ in range(2):
        with pytest.raises(SystemExit):
            publish.main([str(study)])
        assert "is not in" in capsys.readouterr().err
        shutil.rmtree(find_runs(study)[0].folder)  # nor where it is gone


def test_which_to_leave_out_is_told(study, tmp_path, capsys):
    write_run(study.parent / "second", status="running")
    with pytest.raises(SystemExit):
        publish.main([str(study), str(study.parent / "second")])
    assert f"; leave out {study.parent / 'second'} to publish the others" in capsys.readouterr().err


def test_a_run_is_copied_manifest_last(study, tmp_path, monkeypatch):
    (run, *_), made = find_runs(study), []

    def copy(source, draft):
        made.append(draft.name)
        if len(made) == 3:
            raise KeyboardInterrupt
        draft.write_bytes(source.read_bytes())

    monkeypatch.setattr(publication.shutil, "copyfile", copy)
    with pytest.raises(KeyboardInterrupt):
        publication.copy_run(run, tmp_path / "copy")
    assert made[-1] == ".new-manifest.json"  # without it the copy is no run yet
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {"config.yaml", "metrics.jsonl"}
