"""Public studies: their tables from a checkout that is written by hand, and the committed ones."""

import json
import re
import shutil
from pathlib import Path

import pytest

from judge.comparison import compare
from judge.public.cell import Cell, read_cells, write_cells
from judge.public.collect import collect, unlike_printed
from judge.public.study import PublicStudy, list_studies, read_study
from judge.public.tables import by_choice, study_tables
from judge.records import find_runs
from judge.scale import figures, trend
from scripts import adopt, public
from tests.foreign import write_text
from tests.published import CELL, LINE, SIZES, loss, write_studies
from tests.refusal import refusal
from tests.study import write_run


@pytest.fixture
def studies(tmp_path, monkeypatch):
    return write_studies(tmp_path, monkeypatch)


def test_the_table_of_a_checkout_is_the_same_bytes_again(studies):
    for name in ("logged", "tabled"):
        public.main(["collect", name, "checkout"])
        text = (studies / f"results/public/{name}.csv").read_text()
        public.main(["collect", name, "checkout"])
        assert text == (studies / f"results/public/{name}.csv").read_text()
        assert str(studies) not in text
        assert write_cells(read_cells(studies / f"results/public/{name}.csv")) == text


def test_runs_are_stated_at_the_step_of_their_entry_and_copies_count_once(studies, capsys):
    public.main(["collect", "logged", "checkout"])
    muon, soap, ema = read_study("logged").cells
    assert muon.losses == pytest.approx((3.279, 3.28, 3.281))
    assert soap.losses == pytest.approx((3.2801, 3.2803))
    assert ema.losses == (3.279, 3.281)
    assert (muon.source, soap.source) == ("muon/*", "soap.txt")
    assert read_study("logged").address(muon) == "https://example.org/a/b/tree/abc/results/muon"
    assert read_study("logged").address(soap) == "https://example.org/a/b/blob/abc/results/soap.txt"
    assert "soap: the mean of its 2 runs is 3.28020, its source prints 3.2801" in capsys.readouterr().out


def test_a_cell_has_the_chosen_configuration_and_the_lowest_trial(studies):
    public.main(["collect", "tabled", "checkout"])
    cells = read_study("tabled").cells
    assert {cell.arm for cell in cells} == {"AdamW", "soap"}
    assert all(cell.trials == 2 for cell in cells)
    assert all(cell.losses[0] - cell.lowest == pytest.approx(0.001, abs=1e-5) for cell in cells)
    for choice in ("chosen", "lowest"):
        own = figures(by_choice(cells, choice), "AdamW", read_study("tabled").declared)
        inside = [each.speedup for each in own if each.room]
        assert [each.value for each in inside] == pytest.approx([1.3] * 9, rel=0.01)
        assert all(each.low < 1.3 < each.high for each in inside)
        assert trend(own).exponent == pytest.approx(0, abs=1e-2)


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("logged", lambda f: (f / "soap.txt").unlink(), "holds no file like soap.txt, which soap is of"),
        ("logged", lambda f: write_text(f / "soap.txt", LINE.format(step=2400, total=2500, loss=3.3, seconds=1)),
         "has no validation loss at step 2500: the nearest is at step 2400"),
        ("logged", lambda f: write_text(f / "README.md", "no table\n"), "has no table with the column 'step 2000'"),
        ("tabled", lambda f: write_text(f / CELL, "{"), "is no JSON with keys"),
        ("tabled", lambda f: write_text(f / CELL, '{"min_loss": "low"}'), "min_loss is 'low', which is no"),
        ("tabled", lambda f: write_text(f / CELL, "{}"), "has neither baseline.loss nor min_loss"),
        ("tabled", lambda f: write_text(f / "a/9b/1/result.json", '{"min_loss": 3}'), "parameters of 9b are not known"),
    ],
)  # fmt: skip
def test_a_broken_checkout_is_one_sentence(studies, name, change, sentence, capsys):
    change(studies / "checkout/results")
    assert sentence in refusal(capsys, public.main, "collect", name, "checkout")
    assert not (studies / "results").exists()


def test_another_folder_or_study_is_one_sentence(studies, capsys):
    for words, sentence in {
        ("collect", "logged", "nowhere"): "give a checkout of https://example.org/a/b at abc",
        ("collect", "loged", "checkout"): "there is no public study 'loged' in configs/public: did you mean logged",
    }.items():
        with pytest.raises(SystemExit):
            public.main(words)
        assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("each", list_studies(), ids=lambda each: each.name)
def test_the_committed_table_is_of_its_study(each: PublicStudy):
    cells = each.cells
    assert any(cell.arm == each.baseline for cell in cells)
    assert all(len(cell.sha256) == 64 and cell.source for cell in cells)
    assert len({(cell.arm, cell.size, cell.tokens) for cell in cells}) == len(cells)
    assert write_cells(cells) == each.path.read_text()


def test_each_mean_of_track_3_is_what_its_source_prints_but_for_two():
    track3 = read_study("track3")
    assert track3.logs is not None
    entries = {arm.name.partition(" ")[0] for arm in track3.logs.arms}
    assert entries == {str(number) for number in range(1, 47)}
    odd = [
        text for arm, cell in zip(track3.logs.arms, track3.cells, strict=True) if (text := unlike_printed(arm, cell))
    ]
    assert [text.partition(" ")[0] for text in odd] == ["6", "8"]
    assert sum(arm.printed is not None for arm in track3.logs.arms) == 46


def test_the_papers_headlines_come_out_of_the_public_sweep():
    sweep = read_study("wen2025")
    own = figures(by_choice(sweep.cells, "lowest"), sweep.baseline, sweep.declared)

    def ends(arm, size):
        values = [each.speedup.value for each in own if (each.cell.arm, each.cell.size) == (arm, size) and each.room]
        return min(values), max(values)

    assert ends("SOAP", "130m") == pytest.approx((1.27, 1.33), abs=0.01)
    assert ends("SOAP", "1.2b") == pytest.approx((1.06, 1.09), abs=0.01)
    soap = trend([each for each in own if each.cell.arm == "SOAP"])
    assert soap.exponent == pytest.approx(-0.079, abs=1e-3)
    assert soap.exponent < 0 < soap.interval[1]  # four sizes do not show that it shrinks
    assert len(study_tables(sweep)) == 6


def test_runs_of_several_models_give_a_table_by_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for size, parameters in SIZES.items():
        for steps in (2000, 4000, 8000):
            for name, gain in (("adamw", 1.0), ("soap", 1.3)):
                for seed in range(3):
                    facts = {"parameters.total": parameters, "tokens_per_step": 1_000_000}
                    own = {"model.name": size}
                    write_run(tmp_path / "runs", name, steps, seed, gain, noise=0.001, config=own, manifest=facts)
    with pytest.raises(ValueError, match="public scale takes several models"):
        compare(find_runs(tmp_path / "runs"), "adamw")
    public.main(["scale", "runs", "--name", "sizes"])
    page = (tmp_path / "results/public/sizes.md").read_text()
    assert "| soap | 300m |" in page
    assert "PROJECTION: at 4 times that" in page
    assert (tmp_path / "results/public/sizes-parameters.svg").is_file()
    assert (tmp_path / "results/public/sizes-tokens.svg").is_file()


def test_a_cell_without_the_loss_of_its_choice_says_so(studies):
    path = studies / "checkout/results/soap/130m/1/result.json"
    write_text(path, json.dumps({"min_loss": 3.5, "baseline": None, "result": {}}))
    cells, remarks = collect(read_study("tabled"), studies / "checkout")
    assert remarks == ["no loss of the chosen configuration: soap 130m 1"]
    (cell,) = [each for each in cells if not each.losses]
    assert cell.by("chosen") is None
    assert cell.by("lowest").losses == (3.5,)
    assert Cell("a", "b", 1.0, 1, (3.0,)).by("lowest").losses == (3.0,)


def adopted_sizes(*settings):
    """Runs of three sizes and lengths that somebody else trained, adopted with these settings."""
    lines, about = ["run,step,loss"], ["run,arm,model,parameters,seed"]
    for size, parameters in SIZES.items():
        for steps in (2000, 4000, 8000):
            for name, gain in (("adamw", 1.0), ("soap", 1.3)):
                for seed in range(3):
                    end = loss(parameters, 1e6 * steps * gain) + 0.001 * seed
                    run = f"{size}-{name}-{steps}-{seed}"
                    lines += [f"{run},0,11.0", f"{run},{steps},{end:.5f}"]
                    about.append(f"{run},{name},{size},{parameters},{seed}")
    write_text(Path("curves.csv"), "\n".join(lines) + "\n")
    write_text(Path("about.csv"), "\n".join(about) + "\n")
    given = [word for setting in settings for word in ("--set", setting)]
    tables = ["--map", "run=run,step=step,val/loss=loss", "--about", "about.csv:run"]
    patterns = ["--arm", "{arm}", "--seed", "{seed}", "--at", "last"]
    adopt.main(["curves.csv", "--study", "sizes", *tables, *patterns, *given])


def test_adopted_runs_of_several_models_give_one_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    adopted_sizes("model={model}", "parameters={parameters}", "batch.tokens=1000000")
    public.main(["scale", "results/runs/sizes", "--name", "sizes"])
    page = (tmp_path / "results/public/sizes.md").read_text()
    assert len(re.findall(r"\| soap \| (130|300|520)m \|.* 1\.3\d? \(", page)) == 3
    shutil.rmtree("results")
    adopted_sizes("model={model}", "batch.tokens=1000000")
    with pytest.raises(SystemExit):
        public.main(["scale", "results/runs/sizes", "--name", "sizes"])
    assert "has no number of parameters: adopt the runs again with --set parameters=N" in capsys.readouterr().err
