"""What tests/test_distributed.py compares, computed by two ranks and by one: python -m tests.ranks FOLDER NAMES

NAMES are the optimizers that train, with commas between; `run` among them is a run of train.py under Sophia.

The two are forked from a process that has imported everything, which costs a third of what torchrun does. Each takes
its sequences of the same global batch. The results go to FOLDER/<world>-<rank>.pt.
"""

import os
import sys
from pathlib import Path

import pytest
import torch
import torch._dynamo  # torch.optim imports it at the first step; here once for both ranks
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from harness import distributed
from harness.distributed import Ranks, join
from harness.evaluate import evaluate
from tests.command import SMALL, trained
from tests.test_optimizers import build
from tests.tiny import CONTEXT, masked_batch, tiny_batch, tiny_model, tiny_objective

SOPHIA = (*SMALL, "optimizer=sophia_g", "optimizer.every=2", "optimizer.share=0.25")
SHARES = (1.0, 0.5, 0.25, 0.125)  # of 8 sequences; the last leaves every rank but the first with nothing


def main(folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    ranks, _ = join("cpu")
    model = tiny_model(dtype=torch.float64)
    objective = tiny_objective(model, micro=2, ranks=ranks, grad_clip=0.1)
    inputs, targets = tiny_batch()
    result: dict[str, object] = {}
    objective.bind(3, (inputs[ranks.rank :: ranks.world], targets[ranks.rank :: ranks.world]))
    probe = [
        torch.randn(p.shape, generator=objective.generator(i), dtype=p.dtype) for i, p in enumerate(objective.params)
    ]
    result["loss"], result["grads"] = objective(), [p.grad.clone() for p in model.parameters()]  # type: ignore[union-attr]
    result["norm"], result["forward"] = objective.record.norm, objective.loss()
    for share in SHARES:
        narrow = objective.narrow(share)
        result[f"sampled {share}"], result[f"hvp {share}"] = narrow.sampled_grads(), narrow.hvp(probe)
        result[f"narrow loss {share}"] = narrow.loss()
        result[f"tokens {share}"] = torch.tensor(narrow.num_tokens // CONTEXT)
    inputs, targets = (part[ranks.rank :: ranks.world] for part in masked_batch())
    objective.bind(3, (inputs, targets))
    result["counted"], result["masked loss"] = objective.num_targets, objective()
    result["masked grads"] = [p.grad.clone() for p in model.parameters()]  # type: ignore[union-attr]
    result["masked sampled"], result["masked hvp"] = objective.sampled_grads(), objective.hvp(probe)
    result["masked evaluation"] = torch.tensor(evaluate(model, [(inputs, targets)], ranks).loss)
    own = [torch.full((2,), float(ranks.rank))]
    objective.mean_(own)
    result["mean of ranks"] = own[0] / max(ranks.world - 1, 1)  # of 0 .. world - 1, so that it is .5 for many
    result["flops"] = torch.tensor([objective.ledger.model, objective.ledger.curvature])
    result["agreed"] = torch.tensor(ranks.agree(7 + ranks.rank))
    result["buckets"] = torch.tensor(buckets(ranks))
    for name in (name for name in names if name != "run"):
        result[f"curve of {name}"] = torch.tensor(curve(name, ranks), dtype=torch.float64)
    torch.save(result, folder / f"{ranks.world}-{ranks.rank}.pt")
    if "run" in names:
        trained(*SOPHIA, run_dir=str(folder / f"run-{ranks.world}"))


def buckets(ranks: Ranks) -> tuple[int, int]:
    """The buckets that a gradient is summed in, and how many were sent before its backward pass was over."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "BUCKET", 8000)
        objective = tiny_objective(tiny_model(), micro=2, ranks=ranks)
    batch = (part[ranks.rank :: ranks.world] for part in tiny_batch())
    gradient_sum, sent = objective.gradient_sum, []
    finish = gradient_sum.finish
    gradient_sum.finish = lambda: sent.append(len(gradient_sum._pending)) or finish()  # type: ignore[method-assign]
    objective.bind(0, tuple(batch))()
    return len(gradient_sum._buckets), *sent


def curve(name: str, ranks: Ranks) -> list[float]:
    """The losses of 12 updates under an optimizer as configs/optimizer has it: past the refresh of every 10th."""
    model = tiny_model(dtype=torch.float64)
    optimizer = build(name, model)
    objective = tiny_objective(model, micro=2, ranks=ranks)
    losses = []
    for step in range(12):
        batch = (part[ranks.rank :: ranks.world] for part in tiny_batch(step))
        optimizer.step(objective.bind(step, tuple(batch)))
        losses.append(objective.record.loss.item())  # type: ignore[union-attr]
    return losses


if __name__ == "__main__":
    assert os.environ.get("OMP_NUM_THREADS") == "1"
    rendezvous = {"run_id": "ranks", "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    inputs = Path(sys.argv[1]), sys.argv[2].split(",")
    elastic_launch(LaunchConfig(1, 1, 2, start_method="fork", max_restarts=0, **rendezvous), main)(*inputs)
    main(*inputs)
