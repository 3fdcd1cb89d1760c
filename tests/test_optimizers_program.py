"""What is said of every optimizer: on the terminal, and in docs/optimizers.md."""

import re
from pathlib import Path

import pytest

import optimizers
from conventions.config_keys import CONFIGS
from optimizers.registry import REGISTRY
from scripts.document_optimizers import PAGE, page
from scripts.optimizers import everyone, main, one
from tests.refusal import refusal

ROOT = CONFIGS.parent
PICO = ["model=gpt2_pico", "data=stdlib", "batch.tokens=2048", "context=128"]


def columns(line):
    return re.split(r"\s{2,}", line.strip())


def test_every_optimizer_has_its_row():
    lines = everyone(PICO).splitlines()
    rows = {columns(line)[0]: columns(line) for line in lines[4:]}
    assert set(rows) == set(REGISTRY)
    assert rows["adamw"][1:5] == ["8.00", "0.0", "0.00 %", "0 %"]  # m and v in fp32; the counts are lost in rounding
    assert rows["adahessian"][4] == "200 %"
    assert rows["sophia_g"][4] == "5 %"


def test_each_parameter_of_one_and_how_it_is_treated():
    lines = [columns(line) for line in one([*PICO, "optimizer=soap", "optimizer.max_side=200"]).splitlines()[3:]]
    rows = {row[0]: row for row in lines if len(row) > 4}
    width, vocabulary = 64, 256
    assert rows["embedding.weight"][1:3] == [f"{vocabulary} x {width}", "1"]
    assert rows["embedding.weight"][-1] == "Adam in the eigenbasis of its columns (64)"
    assert rows["blocks.*.attention.qkv.weight"][-1] == (
        "Adam in the eigenbasis of its rows (64) and columns (64), as 3 matrices"
    )
    assert rows["blocks.*.mlp.up.weight"][-1] == "Adam in the eigenbasis of its columns (64)"  # 256 is above max_side
    assert rows["norm.weight"][-1] == "Adam"
    # Momentum and squares, and of 64 x 64 the factor, its eigenvectors and eigenvalues, in fp32; a count.
    state = 4 * (2 * vocabulary * width + 2 * width**2 + width + 1)
    assert float(rows["embedding.weight"][3]) == pytest.approx(state / 1e6, abs=0.005)


def test_an_external_class_is_tried():
    text = one([*PICO, "optimizer=external", "++optimizer._target_=torch.optim.NAdam"])
    assert text.startswith("torch.optim.NAdam on gpt2_pico")
    assert "8.00 bytes of state per parameter" in text


def test_bad_input_gets_its_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sentence = refusal(capsys, main, "optimizer=sopa")
    assert sentence == "optimizer=sopa is not there: did you mean soap or sophia_h or sophia_g?"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_page_is_what_the_code_says():
    assert PAGE.read_text() == page(), "make docs writes it anew"


def test_everything_that_is_said_of_an_optimizer_is_there():
    for info in optimizers.list_optimizers():
        assert info.about, info.name
        if info.proof:
            proof = (ROOT / info.proof).read_text()
            assert info.name in proof or info.constructor.__name__ in proof
        assert (Path(CONFIGS) / "optimizer" / f"{info.name}.yaml").is_file()
