"""Our optimizers inside other people's loops: Hugging Face's Trainer, Lightning, torch.compile, and ranks.

Two of them are no requirement of the project, and their tests are skipped where they are not installed.
"""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.command import environment
from tests.test_loop import NAMES, loop, make, one_pass
from tests.tiny import SEQUENCES, tiny_batch, tiny_model, tiny_objective, train

ROOT = Path(__file__).parent.parent
STEPS = 24
QUICK = ["soap", "muon", "kfac", "sophia_g"]  # one of each kind: plain, by role, hooked, with a curvature of the loop
CASES = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in NAMES]
# Without those whose loss needs a second derivative, which these frameworks' ordinary loss has not.
ORDINARY = [case for case in CASES if case.values[0] not in ("adahessian", "sophia_h")]

pytestmark = [
    pytest.mark.filterwarnings(f"ignore{what}")
    for what in (":MKOR-H sees no loss", "::DeprecationWarning", "::FutureWarning", "::UserWarning")
]


class WithMean(nn.Module):
    """The tiny model, whose loss is a mean: what other loops call backward on."""

    def __init__(self) -> None:
        super().__init__()
        self.model = tiny_model(dtype=torch.float64)

    def forward(self, inputs, targets):
        losses = self.model(inputs, targets)
        return {"loss": losses.sum / losses.count}


class Rows(torch.utils.data.Dataset):
    """The sequences of the tiny batches, one after the other."""

    def __len__(self) -> int:
        return SEQUENCES * STEPS

    def __getitem__(self, i: int):
        inputs, targets = tiny_batch(i // SEQUENCES)
        return {"inputs": inputs[i % SEQUENCES], "targets": targets[i % SEQUENCES]}


def expected(name: str, clip: float | None) -> list[float]:
    """The losses of our own trainer, or of the plain loop where the loop draws the labels."""
    torch.manual_seed(0)
    model = tiny_model(dtype=torch.float64)
    optimizer = make(name, model)
    if hasattr(optimizer, "update_curvature"):
        return loop(model, optimizer, STEPS, clip=clip)
    return train(model, optimizer, tiny_objective(model, grad_clip=clip), STEPS)


@pytest.mark.parametrize("name", ORDINARY)
def test_hugging_faces_trainer(name, tmp_path):
    pytest.importorskip("accelerate", reason="Hugging Face's Trainer needs the package accelerate")
    from torch.utils.data import SequentialSampler
    from transformers import Trainer, TrainingArguments

    losses = []

    class InOrder(Trainer):
        def _get_train_sampler(self, *_):
            return SequentialSampler(self.train_dataset)

        def training_step(self, model, inputs, *rest):
            if getattr(optimizer, "curvature_due", False):
                optimizer.update_curvature(model.model(inputs["inputs"]))
            losses.append(super().training_step(model, inputs, *rest))
            return losses[-1]

    model = WithMean()
    optimizer = make(name, model.model)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=STEPS, per_device_train_batch_size=SEQUENCES, max_grad_norm=1.0,
        use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True, remove_unused_columns=False, seed=0,
        dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = InOrder(model, arguments, train_dataset=Rows(), optimizers=(optimizer, scheduler))
    torch.manual_seed(0)
    trainer.train()
    assert [loss.item() for loss in losses] == pytest.approx(expected(name, 1.0), rel=1e-9)


@pytest.mark.parametrize("name", ORDINARY)
def test_lightnings_loop(name, tmp_path):
    """Its clipping sums the norm in another order, which SOAP's first bases would magnify: here it is off."""
    lightning = pytest.importorskip("lightning", reason="Lightning is no requirement of the project")
    losses = []

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.whole = WithMean()

        def training_step(self, batch, _):
            optimizer = self.optimizers().optimizer
            if getattr(optimizer, "curvature_due", False):
                optimizer.update_curvature(self.whole.model(batch["inputs"]))
            loss = self.whole(**batch)["loss"]
            losses.append(loss.item())
            return loss

        def configure_optimizers(self):
            return make(name, self.whole.model)

    module = Module()
    trainer = lightning.Trainer(
        max_steps=STEPS, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    torch.manual_seed(0)
    trainer.fit(module, torch.utils.data.DataLoader(Rows(), batch_size=SEQUENCES))
    assert losses == pytest.approx(expected(name, None), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_torch_compile_round_the_step(name):
    """Traced by Dynamo and run as it is: Inductor's own rounding is no matter of the optimizer."""
    ends = []
    for compiled in (False, True):
        torch._dynamo.reset()
        torch.manual_seed(0)
        model = tiny_model()
        optimizer = make(name, model)
        step = torch.compile(lambda its=optimizer: its.step(), backend="eager") if compiled else optimizer.step
        losses = []
        for number in range(STEPS):
            losses.append(one_pass(model, optimizer, number).item())
            step()
        ends.append(losses)
    assert ends[0] == pytest.approx(ends[1], rel=1e-6)


@pytest.mark.slow
def test_two_ranks_make_the_updates_of_one():
    """DistributedDataParallel with every optimizer, FSDP2 with those that step on shards; the others say so."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [sys.executable, "-m", "tests.wrapped_ranks", str(port)]
    done = subprocess.run(line, cwd=ROOT, env=environment(OMP_NUM_THREADS="1"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = dict(each.split(": ", 1) for each in done.stdout.splitlines() if ": " in each)
    for name in NAMES:
        assert float(lines[f"{name} ddp"]) < 1e-9, name
        shards = lines[f"{name} fsdp2"]
        if name in ("lion", "lamb"):
            assert float(shards) < 1e-9, name
        else:
            assert shards.endswith("or Lion or Lamb"), (name, shards)
