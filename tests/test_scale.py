"""Speed-ups over sizes: the fit and its projection on made-up cells, and the tables of results/public."""

import csv
import hashlib
import math
import re

import numpy as np
import pytest

from judge.declared import Declared, Sigma
from judge.public.cell import Cell
from judge.scale import figures, trend
from scripts import adopt, public
from tests.foreign import write_text
from tests.refusal import refusal

SIZES = {"130m": 1.3e8, "300m": 3e8, "520m": 5.2e8, "1.2b": 1.2e9}
EXPONENT = -0.08


def loss(parameters, tokens):
    return 1.7 + 400 * parameters**-0.34 + 410 * tokens**-0.28


def speedup(parameters):
    return 1.3 * (parameters / SIZES["130m"]) ** EXPONENT


def cells(noise=0.0, rng=None):
    for size, parameters in SIZES.items():
        for budget in (1, 2, 4, 8):
            tokens = int(20 * parameters * budget)
            for name, gain in (("adamw", 1.0), ("soap", speedup(parameters))):
                luck = noise * rng.standard_normal() if rng else 0.0
                yield Cell(name, size, parameters, tokens, (loss(parameters, tokens * gain) + luck,), str(budget))


def test_the_exponent_and_the_projection_are_found():
    result = figures(list(cells()), "adamw")
    line = trend(result)
    assert line.exponent == pytest.approx(EXPONENT, abs=1e-3)
    assert line.at(4 * SIZES["1.2b"]).value == pytest.approx(speedup(4 * SIZES["1.2b"]), rel=5e-3)
    with pytest.raises(ValueError, match="a projection stops at 4 times the largest size"):
        line.at(5 * SIZES["1.2b"])


def test_cells_beyond_the_ladder_take_no_part():
    result = figures(list(cells()), "adamw")
    beyond = [each for each in result if each.speedup.censored]
    assert {each.cell.budget for each in beyond} == {"8"}
    assert trend(result, over_cells=True).points == len(result) - len(beyond)


@pytest.mark.slow
def test_the_intervals_of_exponent_and_cells_cover():
    rng = np.random.default_rng(0)
    over_sizes = over_cells = held = count = 0
    for _ in range(150):
        result = figures(list(cells(0.003, rng)), "adamw", Declared(Sigma(0.003, "these cells")))
        low, high = trend(result).interval
        over_sizes += low <= EXPONENT <= high
        low, high = trend(result, over_cells=True).interval
        over_cells += low <= EXPONENT <= high
        for each in result:
            truth = speedup(each.cell.parameters)
            held += (each.speedup.low or 0) <= truth <= (each.speedup.high or math.inf)
            count += 1
    assert 0.93 <= held / count <= 0.97
    assert over_sizes / 150 >= 0.9
    assert over_cells / 150 >= 0.8


def test_two_sizes_give_no_line_and_no_baseline_no_figure():
    small = [cell for cell in cells() if cell.size in ("130m", "300m")]
    assert trend(figures(small, "adamw")) is None
    with pytest.raises(ValueError, match="no cell is of the baseline 'lion'"):
        figures(small, "lion")


def write_table(path):
    rows = [
        {"optimizer": c.arm, "size": c.size, "params_nonemb": c.parameters, "tokens": c.tokens,
         "chinchilla": c.budget, "min_loss": c.losses[0]}
        for c in cells()
    ]  # fmt: skip
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_the_tables_of_a_sweep_are_the_same_bytes_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "sweep.csv")
    command = ["scale", str(tmp_path / "sweep.csv"), "--name", "theirs", "--repository", "github:a/b"]
    public.main(command)
    page = (tmp_path / "results/public/theirs.md").read_text()
    public.main(command)
    assert page == (tmp_path / "results/public/theirs.md").read_text()
    assert f"sweep.csv, github:a/b, sha256 {hashlib.sha256((tmp_path / 'sweep.csv').read_bytes()).hexdigest()}" in page
    assert "| soap | 130m | 1.30 | 1.30 | 1.30 | >1 |" in page
    assert "PROJECTION: at 4 times that" in page
    for figure in re.findall(r"\]\((.*?)\)", page):
        assert (tmp_path / "results/public" / figure).is_file()
    assert page.count("](theirs-") == 2
    assert str(tmp_path) not in page


def test_the_tables_of_an_adopted_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed in range(3):
        for arm, steps in (("muon", 3000), ("soap", 2500)):
            text = f"step:{steps}/{steps} val_loss:{3.28 + 0.001 * seed:.5f} train_time:9.000s step_avg:3.00ms\n"
            write_text(tmp_path / "logs" / f"{arm}-s{seed}.log", text)
    adopt.main(["logs", "--study", "theirs", "--arm", "(muon|soap)", "--seed", r"s(\d)", "--commit", "abc"])
    slope = ["--slope", ".13", "--slope-from", "a law"]
    public.main(["study", "results/runs/theirs", "--name", "theirs", "--baseline", "muon", *slope])
    page = (tmp_path / "results/public/theirs.md").read_text()
    assert "| soap | 2,500 | 3 | 3.2810 ± 0.0010 | 1.20 | 1.18 to 1.22 | faster, by less than 1.25 |" in page
    assert "soap-s0.log, abc, sha256" in page


def test_a_table_without_a_column_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "sweep.csv")
    sentence = refusal(capsys, public.main, "scale", "sweep.csv", "--name", "x", "--tokens", "token")
    assert "sweep.csv, line 2, has no token: did you mean tokens" in sentence
