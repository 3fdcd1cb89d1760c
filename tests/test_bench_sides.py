"""The bench's sides, without their processes, at a size that takes a moment on a CPU."""

import json
import sys

import pytest
import torch

from harness.profile import profiled
from judge.measurements import FILE
from scripts.bench.__main__ import check, main, parser
from scripts.bench.drift import drift, skewness
from scripts.bench.plan import Plan, book
from scripts.bench.programs import program, read_rate
from scripts.bench.steps import Ours, Theirs
from scripts.bench.training import Halfstep, NanoGPT
from tests.refusal import refusal
from tests.test_bench import texts

UNIT = book()["unit"]
REFERENCES = book()["references"]

NANOGPT = """
import torch
from dataclasses import dataclass

@dataclass
class GPTConfig:
    block_size: int = 0
    vocab_size: int = 0
    n_layer: int = 0
    n_head: int = 0
    n_embd: int = 0
    dropout: float = 0.1
    bias: bool = True

class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        assert (config.n_layer, config.n_head, config.n_embd, config.bias) == (2, 2, 64, False)
        self.table = torch.nn.Embedding(config.vocab_size, config.n_embd)

    def forward(self, inputs, targets):
        logits = self.table(inputs) @ self.table.weight.T
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def configure_optimizers(self, weight_decay, lr, betas, kind):
        return torch.optim.AdamW(self.parameters(), lr, betas, weight_decay=weight_decay)
"""


@pytest.fixture
def setting(corpus):
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    files = [str(shard.path) for shard in corpus.train]
    yield {"model": "gpt2_pico", "tokens": 256, "context": 64, "vocabulary": 256, "device": "cpu", "files": files,
           "compile": False}  # fmt: skip
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
    torch.backends.cuda.enable_flash_sdp(True)


def test_halfsteps_updates_fall_and_the_parts_of_one_add_up_to_it(setting):
    side = Halfstep("adamw", {"lr": 6e-4}, **setting)
    assert side.warm_up() > 0
    answer = side.turn(8, True)
    assert answer["loss"] < side.facts()["first_loss"]
    assert side.step == 4 + 8 + 1
    parts = dict(answer["parts"])
    whole = parts.pop("whole")
    assert whole == pytest.approx(sum(parts.values()))
    assert min(parts.values()) >= 0
    assert parts["products"] > 0
    assert parts["attention"] > 0
    facts = side.facts()
    assert facts["flops_per_token"] == side.objective.model.flops_per_token(64)
    assert (facts["micro"], facts["period"]) == (4, 1)
    assert Halfstep("soap", {"every": 3}, **{**setting, "micro": 2}).facts()["micro"] == 2


@pytest.mark.parametrize("model", ["llama_pico", "bert_pico"])
def test_other_families_train_and_step_too(setting, model):
    changes = {"model": model, "tokens": 512, "vocabulary": 320}
    side = Halfstep("adamw", {"lr": 3e-3}, **{**setting, **changes})
    side.warm_up()
    answer = side.turn(8, False)
    assert answer["loss"] < side.facts()["first_loss"]
    trained = side.objective.model
    assert side.facts()["flops_per_token"] == trained.flops_per_token(64)
    assert side.objective.sampled_flops_per_token == trained.sampled_flops_per_token(64)
    _, targets = side.loader.batch(0)
    counted = trained.masking.predictions(64) if trained.masking else 64  # of a sequence
    assert (targets >= 0).sum().item() == 8 * counted
    assert Ours("mkor", {}, **{**setting, **changes}).turn(1, False)["seconds"] > 0


def test_no_part_is_negative_where_the_profiler_sees_more_than_the_clock():
    parts = profiled(lambda: float(torch.randn(400, 400).mm(torch.randn(400, 400)).sum() * 0), "cpu")
    assert parts["between"] == 0
    assert parts["whole"] == pytest.approx(sum(value for key, value in parts.items() if key != "whole"))


def test_nanogpts_side_trains_its_own_model_on_the_same_shape(setting, tmp_path):
    (tmp_path / "model.py").write_text(NANOGPT)
    side = NanoGPT(str(tmp_path), lr=1e-2, betas=[0.9, 0.95], weight_decay=0.1, **{**setting, "micro": 2})
    side.warm_up()
    first = side.read_loss()
    answer = side.turn(20, True)
    assert answer["loss"] < first
    assert (side.micro, side.step) == (2, 25)
    assert answer["parts"]["whole"] > 0


@pytest.mark.parametrize(("name", "period"), [("adamw", 1), ("soap", 10), ("kfac", 50), ("sophia_h", 10), ("mkor", 10)])
def test_our_steps_are_of_whole_periods_and_take_the_gradients_at_hand(setting, name, period):
    side = Ours(name, {}, **setting)
    answer = side.turn(10, False)
    assert answer["updates"] == side.done == max(10, period)
    assert 0 < answer["usual"] <= answer["slowest"]
    assert answer["usual"] <= answer["seconds"] * 1.5 or period == 1
    assert any(torch.equal(p.grad, g) for p, g in zip(side.params, side.pool[(side.done - 1) % 3], strict=True))
    facts = side.facts()
    assert facts["period"] == period
    assert facts["state_bytes"] > 4
    if name == "adamw":
        assert facts["least"] == {"moved": 28 * facts["parameters"], "flops": {}}
    if name == "soap":
        assert set(facts["least"]["flops"]) == {"float32"}
        assert facts["keywords"]["projection_dtype"] == "float32"


@pytest.mark.parametrize("by", [(e["optimizer"], e["by"]) for e in REFERENCES if "module" in e])
def test_installed_references_step_beside_ours(setting, by):
    (reference,) = [e for e in REFERENCES if (e["optimizer"], e["by"]) == by]
    before = Theirs(UNIT, UNIT, by[0], {}, "", **setting)
    side = Theirs(reference, UNIT, by[0], {}, "", **setting)
    weights = [p.detach().clone() for p in side.params]
    assert side.turn(1, False)["seconds"] > 0
    assert all((p != w).any() for p, w in zip(side.params, weights, strict=True))
    assert len(side.optimizers) == 1 + reference.get("hidden", False)
    before.turn(1, False)
    assert before.facts()["state_bytes"] == pytest.approx(8, rel=0.01)


def test_a_reference_comes_from_its_checkout(setting, tmp_path):
    (tmp_path / "soap.py").write_text(
        "import torch\nclass SOAP(torch.optim.SGD):\n"
        "    def __init__(self, groups, lr, precondition_frequency):\n"
        "        super().__init__(groups, lr)\n        self.every = precondition_frequency\n"
    )
    (reference,) = [e for e in REFERENCES if e.get("file") == "soap.py"]
    side = Theirs(reference, UNIT, "soap", {"every": 4}, str(tmp_path), **setting)
    assert side.main.every == 4
    assert side.turn(10, False)["updates"] == 12


DRIFT = {"sequences": 2, "updates": 12, "device": "cpu", "layers": 1, "heads": 1, "width": 32, "context": 32}


def test_drift_of_quick_ways_from_float64(corpus):
    shape = {**DRIFT, "files": [str(shard.path) for shard in corpus.train]}
    plain, cholesky, coarse = (
        drift("soap", {}, way, **shape) for way in ({}, {"qr": "cholesky"}, {"projection_dtype": "bfloat16"})
    )
    assert 0 < plain["drift"] <= plain["largest"] < coarse["largest"]
    assert cholesky["largest"] < 2 * plain["largest"] + 1e-6
    assert all(row["skew"] < 1e-5 for row in (plain, cholesky, coarse))
    exact = drift("muon", {"ns_dtype": "float64"}, {"ns_dtype": "float64"}, **shape)
    assert exact["largest"] < 1e-5  # the state is in float32 all the same
    assert exact["skew"] is None


def test_a_skewed_basis_is_seen(setting):
    side = Ours("soap", {}, **setting)
    side.turn(1, False)
    assert skewness(side.optimizers[0]) < 1e-4
    basis = next(s["left_basis"] for s in side.optimizers[0].state.values() if "left_basis" in s)
    basis[:, 0] *= 1.01
    assert skewness(side.optimizers[0]) == pytest.approx(0.0201, rel=1e-2)


def test_programs_are_read_as_they_print():
    nanogpt, track3 = book()["programs"]
    assert read_rate("compiling\n", nanogpt) is None
    assert read_rate("time per iteration: 61.4400ms, MFU: 30%\n", nanogpt) == pytest.approx(200_000)
    lines = [f"step:{n}/9000 train_time:{1.5 * n:.3f}s step_avg:1ms\n" for n in range(60)]
    assert read_rate("".join(lines[:50]), track3) is None
    assert read_rate("".join(lines), track3) == pytest.approx(524_288 / 1.5)


def test_a_program_is_run_to_its_rate_and_its_failure_is_a_sentence(tmp_path):
    entry = {"file": "p.py", "line": r"took ([\d.]+)ms", "tokens": 1000, "limit": 60, "in_checkout": True}
    (tmp_path / "p.py").write_text("print('took 10ms')\nimport time; time.sleep(600)")
    assert program(entry, str(tmp_path), tokens=5000) == {"seconds": pytest.approx(0.05)}
    (tmp_path / "p.py").write_text("raise RuntimeError('no CUDA here')")
    with pytest.raises(ValueError, match=r"p.py ended without its times: RuntimeError: no CUDA here"):
        program(entry, str(tmp_path), tokens=5000)
    (tmp_path / "p.py").write_text("import time; time.sleep(600)")
    with pytest.raises(ValueError, match=r"p.py did not end within 0.5 s"):
        program({**entry, "limit": 0.5}, str(tmp_path), tokens=5000)


def planned(tmp_path, *arguments, device="cpu"):
    options = parser().parse_args([*arguments, "--rehearse"])
    options.scratch, held = tmp_path, book(True)
    return Plan(held, options, device, check(options, held))


def test_the_plan_is_in_the_order_of_the_book(tmp_path):
    plan = planned(tmp_path)
    result = plan.measurements(("updates", "products", "train", "step", "whole", "drift"))
    parts = list(dict.fromkeys(one.part for one in result))
    assert parts == ["updates", "products", "train", "step", "whole", "drift"]
    first = [one.sides[0].name for one in result if one.part == "updates"]
    assert first[:3] == ["soap", "muon", "sophia_g"]
    assert sorted(first) == sorted(plan.names())
    assert {one.updates for one in result if one.part == "updates"} == {8}  # four come before
    assert len({one.what for one in result}) == len(result)
    assert not any("tf32" in one.what for one in result)  # a CPU has none
    assert {one.updates for one in result if one.part == "step"} == {
        20
    }  # not as many as fill seconds: a GPU waits before each
    cuda = planned(tmp_path, "--only", "soap", device="cuda").measurements(("step",))
    assert any("projection_dtype=tf32" in one.what for one in cuda)


def test_variants_and_ways_stand_beside_what_they_change(tmp_path):
    plan = planned(tmp_path, "--variants", "micro=2+attention=flash", "--way", "soap every=7", "--only", "soap")
    *_, variant = plan.measurements(("train",))
    assert [side.name for side in variant.sides] == ["halfstep micro=2+attention=flash", "halfstep"]
    assert variant.sides[0].keywords["micro"] == 2
    assert "micro" not in variant.sides[1].keywords
    assert any(one.sides[0].name == "soap every=7" for one in plan.measurements(("step",)))


def test_nanogpt_stands_beside_gpt2_alone(tmp_path):
    (tmp_path / "bench.py").write_text("")
    plan = planned(tmp_path, "--nanogpt", str(tmp_path), "--model", "gpt2_pico,llama_pico")
    sides = [[side.name for side in one.sides] for one in plan.measurements(("train",))]
    assert sides == [["halfstep", "nanogpt"], ["halfstep"]]
    plan = planned(tmp_path, "--nanogpt", str(tmp_path), "--model", "llama_pico", "--variants", "nanogpt:micro=4")
    with pytest.raises(ValueError, match="--variants nanogpt:micro=4: nanoGPT has no llama_pico"):
        plan.measurements(("train",))


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        (["--minutes", "0"], "--minutes must be above 0, not 0"),
        (["--tokens", "1000"], "--tokens must be a multiple of --context=128"),
        (["--model", "gpt2_piko"], "--model: there is no gpt2_piko; did you mean gpt2_pico"),
        (["--only", "loin"], "--only: there is no loin; did you mean lion"),
        (["--way", "loin every=3"], "--way: there is no loin; did you mean lion"),
        (
            ["--model", "gpt2_pico", "--context", "4096", "--tokens", "4096"],
            "--context 4096 is longer than the 128 of gpt2_pico",
        ),
        (["--variants", "depth=3"], "depth is no key of the config"),
        (["--variants", "attention=math"], "attention must be"),
        (["--nanogpt", "nowhere"], "nowhere is no checkout for nanogpt: it holds no bench.py"),
        (["--reference", "soap=nowhere"], "nowhere is no checkout for soap: it holds no soap.py"),
        (["--reference", "sopa=nowhere"], "--reference: there is no sopa; did you mean soap"),
        (["--vocabulary", "7"], "--vocabulary must be at least 256"),
    ],
)
def test_bad_input_is_a_sentence(inputs, sentence, tmp_path, capsys):
    assert sentence in refusal(capsys, main, "train", "--rehearse", "--output", str(tmp_path), *inputs)
    assert not (tmp_path / FILE).exists()


def test_a_rehearsal_measures_to_its_tables_and_has_nothing_left(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench"])
    arguments = ["updates", "--rehearse", "--device", "cpu", "--only", "lion", "--output", str(tmp_path)]
    main(arguments)
    shown = capsys.readouterr().out
    assert "falls" in shown
    assert shown.endswith("nothing is left of this part\n")
    rows = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert [row["what"].partition(" ")[0] for row in rows] == ["call", "updates"]
    main(arguments)
    assert len((tmp_path / FILE).read_text().splitlines()) == 3  # a call, and nothing measured twice


@pytest.mark.slow
def test_a_whole_rehearsal(tmp_path, capsys):
    main(["all", "--rehearse", "--device", "cpu", "--only", "soap,muon", "--minutes", "20", "--output", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "nothing is left" in shown
    assert "does not run" not in shown
    text = texts([json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()])
    for part in ("The first updates", "Throughput", "Where a profiled", "Steps", "Whole updates", "Drift"):
        assert part in text
