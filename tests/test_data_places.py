"""Where a run's data lie: they may move, and their files may have any name."""

import json
import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import train
from judge.records import read_run
from scripts.report import main as report
from tests.cases import quick_cases
from tests.command import composed, interrupted, manifest, rows, trained

LOCAL = ("data=local", "data.tokenizer=bytes", "data.val_share=0.3", "eval.tokens=128", "checkpoint.every=2")


def test_data_that_moved_go_on_and_other_data_do_not(here):
    text = [f"passage {n} of a text that has many of them\n" * 9 for n in range(200)]
    for place in ("old", "new", "other"):
        (here / place).mkdir()
        (here / place / "a.jsonl").write_text("".join(json.dumps({"text": place[:3] + t}) + "\n" for t in text))
    (here / "new" / "a.jsonl").write_bytes((here / "old" / "a.jsonl").read_bytes())
    trained(*LOCAL, "data.files=old/a.jsonl", run_dir="whole")
    interrupted(*LOCAL, "data.files=old/a.jsonl", run_dir="cut", at=3)
    with pytest.raises(ValueError, match="was begun on other tokens"):
        trained(*LOCAL, "data.files=other/a.jsonl", run_dir="cut", resume=True)
    with pytest.raises(ValueError, match=r"another config \(it differs in data.val_share\)"):
        trained(*LOCAL, "data.files=new/a.jsonl", "data.val_share=0.2", run_dir="cut", resume=True)
    trained(*LOCAL, "data.files=new/a.jsonl", run_dir="cut", resume=True)
    assert rows(here / "cut") == rows(here / "whole")
    assert manifest(here / "cut")["config_hash"] == manifest(here / "whole")["config_hash"]


NAMES = (b"caf\xe9.jsonl", "caf\u00e9 \u4e2d.jsonl".encode(), b"a\\udce9.jsonl")


@pytest.mark.parametrize("name", quick_cases(NAMES, NAMES[:1]))
def test_the_config_of_any_file_name_reads_back(here, name):
    path = os.fsdecode(name)
    Path(path).write_text("".join(json.dumps({"text": f"passage {n} " * 20}) + "\n" for n in range(200)))
    values = {**composed(*LOCAL, "data.files=x", "steps=1"), "run_dir": "run", "resume": False}
    values["data"] = {**values["data"], "files": path}
    assert train.main(values) == "finished"
    assert read_run(Path("run")).config["data"]["files"] == path
    assert (here / "run" / "config.yaml").read_bytes().isascii()
    config = OmegaConf.load("run/config.yaml")  # and others can read it
    assert os.fsencode(config.data.files) == name if isinstance(config.data.files, str) else config.data.files == name
    report(["run", "--output", "report.html"])
    assert "gpt2_pico" in Path("report.html").read_text()
