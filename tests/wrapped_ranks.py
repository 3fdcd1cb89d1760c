"""Two gloo ranks train the tiny model under every optimizer, in DistributedDataParallel and in FSDP2.

python -m tests.wrapped_ranks PORT prints for each how far its losses are from one rank's, or the sentence that it ends
with.
"""

import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel

from optimizers.loop import Curvature
from tests.test_loop import NAMES, make
from tests.tiny import tiny_batch, tiny_model, tiny_objective, train

STEPS, WORLD = 12, 2


def given(name: str) -> dict[str, object]:
    if name == "soap_muon":  # which takes rounding over rounding to a full step where eps does not hide it
        return {"eps": 1e-4, "ns_dtype": "float64"}
    return {"share": 1.0} if "sophia" in name else {}


def losses_of(name: str, sharded: bool, rank: int, world: int) -> list[float]:
    """The mean losses over the ranks, in a loop without an Objective."""
    model = tiny_model(dtype=torch.float64)
    if sharded:
        for block in model.blocks:
            fully_shard(block)
    wrapped = fully_shard(model) if sharded else DistributedDataParallel(model) if world > 1 else model
    optimizer = make(name, model, **given(name))
    losses = []
    for step in range(STEPS):
        inputs, targets = (part[rank::world] for part in tiny_batch(step))
        if getattr(optimizer, "curvature_due", False):
            with sdpa_kernel(SDPBackend.MATH):
                whole = model(inputs, targets)
                logits = name == "sophia_g"
                optimizer.update_curvature(model(inputs) if logits else whole.sum / whole.count)
        optimizer.zero_grad()
        whole = wrapped(inputs, targets)
        loss = whole.sum / whole.count
        loss.backward()
        nn.utils.clip_grad_norm_(wrapped.parameters(), 1.0)
        optimizer.step()
        mean = loss.detach() / world
        dist.all_reduce(mean) if world > 1 else None
        losses.append(mean.item())
    return losses


def rank_of_two(rank: int, port: int) -> None:
    torch.set_num_threads(1)
    # The labels and the probes are those of one rank: the same for every number of ranks.
    Curvature.generator = lambda self, key: torch.Generator().manual_seed(0)  # type: ignore[method-assign]
    torch.multinomial = lambda p, *_, **__: p.argmin(-1, keepdim=True)  # type: ignore[assignment]
    alone = {name: losses_of(name, False, 0, 1) for name in NAMES}
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    for name in NAMES:
        for how, sharded in (("ddp", False), ("fsdp2", True)):
            try:
                pairs = zip(losses_of(name, sharded, rank, WORLD), alone[name], strict=True)
                answer: object = max(abs(a - b) for a, b in pairs)
            except ValueError as error:
                answer = error
            if rank == 0:
                print(f"{name} {how}: {str(answer).removeprefix('params: ')}", flush=True)
    if rank == 0:
        model = tiny_model(dtype=torch.float64)
        own = train(model, make("soap", model), tiny_objective(model), STEPS)
        print(f"the trainer: {max(abs(a - b) for a, b in zip(own, alone['soap'], strict=True))}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(rank_of_two, args=(int(sys.argv[1]),), nprocs=WORLD)
