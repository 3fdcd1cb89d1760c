"""Train GPT-2, Llama or BERT from scratch under any optimizer, and count every step, FLOP and second.

    python train.py                                                        a small GPT-2 on Python's own source text
    python train.py optimizer=muon optimizer.lr=0.02 steps=1000 seed=1     another optimizer, another seed
    python train.py -m optimizer=adamw,lion optimizer.lr=3e-4,1e-3 seed=0,1,2
    torchrun --nproc_per_node=8 train.py experiment=sophia/sophia_g
    python train.py optimizer=external optimizer._target_=pytorch_optimizer.Lion optimizer.lr=1e-4

A run's folder, under results/runs/, holds config.yaml, manifest.json, metrics.jsonl and checkpoints/.
"""

from harness.command_line import answer_help, command

if __name__ == "__main__":
    answer_help(__doc__)  # before torch is imported: --help answers at once

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import optimizers
from conventions.keywords import bind, construct
from conventions.run_format import ENDED
from data.loader import Loader, cut_for, evaluation_batches
from data.plan import check_data
from harness import checkpoint, device, manifest, tracker
from harness.attempt import Attempt, Threads
from harness.clock import Clock
from harness.config import Config, config_hash, parse, run_dir, whole_numbers
from harness.distributed import Ranks, join
from harness.evaluate import MeanLoss, evaluate
from harness.flops import Ledger
from harness.initial import initial_weights
from harness.kernels import choose_kernels
from harness.objective import TimedObjective
from harness.pass_sizes import resolve_micro
from harness.progress import ProgressDisplay
from harness.recorder import Recorder
from harness.rehearsal import uncharged_per_step
from harness.run_folder import RunFolder
from harness.schedule import build_schedule, set_lr
from harness.sharding import share_out
from models.hf import read_folder
from models.plan import check_model
from optimizers.plan import check_optimizer


def main(values: dict[str, Any]) -> str:
    """Train the run of a composed config; returns how it ended: finished or diverged."""
    cfg = parse(values)
    values = whole_numbers(values, cfg)
    ranks, place = join(cfg.device)
    digest = config_hash(values)
    folder = RunFolder(run_dir(cfg, digest), values, digest, writes=ranks.first)
    with Attempt(folder, place, cfg.optimizer.get("_target_")) as attempt:
        before = ranks.agree(folder.check(cfg.resume) if ranks.first else None)
        if before and before["status"] in ENDED:
            if ranks.first:
                print(f"{folder.path} is {before['status']} already")
            return before["status"]
        run = build(cfg, attempt, before, ranks, place)
        return attempt.end(loop(run), run.recorder.diagnosis())


@dataclass
class Parts:
    """The loop works on these."""

    cfg: Config
    clock: Clock
    loader: Loader
    schedule: Callable[[int], float]
    objective: TimedObjective
    optimizer: torch.optim.Optimizer
    recorder: Recorder
    evaluate: Callable[[], MeanLoss]
    save: Callable[[int], None]
    start: int


def loop(run: Parts) -> str:
    """Make every update of a run from `start` on; returns how it ended. Nothing here knows which optimizer it is."""
    cfg, clock, objective = run.cfg, run.clock, run.objective
    optimizer, recorder = run.optimizer, run.recorder
    for step in range(run.start, cfg.steps + 1):
        if step == cfg.steps or (cfg.checkpoint.every and step % cfg.checkpoint.every == 0 and step > run.start):
            if not recorder.healthy():
                return "diverged"
            with clock.paused("checkpoint"):
                run.save(step)
        if recorder.due(step):
            with clock.paused("evaluate"):
                evaluation = run.evaluate() if recorder.evaluation_due(step) else None
            if not recorder.open(step, evaluation):
                return "diverged"
        if step == cfg.steps:
            break
        with clock.running():
            with clock.part("data"):
                batch = run.loader.batch(step)
            set_lr(optimizer, run.schedule(step))
            optimizer.step(objective.bind(step, batch))  # type: ignore[arg-type]
            objective.sharding.gather()
        if not recorder.close(step, objective.record):
            return "diverged"
    return "finished"


def build(cfg: Config, attempt: Attempt, before: dict[str, Any] | None, ranks: Ranks, place: str) -> Parts:
    """Build the data, the model, the optimizer, and the harness that joins and watches them."""
    # All that the config can get wrong is found before the data is touched: a large corpus takes hours to prepare.
    checkpoints = attempt.folder.path / "checkpoints"
    newest = ranks.agree(checkpoint.newest(checkpoints, attempt.folder.digest) if before and ranks.first else None)
    schedule = construct(build_schedule, cfg.schedule, "schedule", cfg.steps)
    begin = initial_weights(cfg.init_from, read_folder, before.get("init_from") if newest and before else None)
    build_model = check_model(cfg.model, cfg.context, cfg.seed)
    planned = check_optimizer(cfg.optimizer, cfg.allow_targets, place, cfg.steps)
    checkpoint.check_state(planned.tryout(place))
    load_data = check_data(cfg.data)
    make_tracker = tracker.find(cfg.tracker["name"])
    tracker_keywords = bind(make_tracker, cfg.tracker, "tracker", ["folder", "config", "manifest"])
    compiled = device.resolve_compile(cfg.compile, place)
    attempt.callback(optimizers.compile_kernels, None)
    optimizers.compile_kernels(compiled)
    dataset = ranks.first_before_others(lambda: load_data(quiet=not ranks.first))
    kernels = choose_kernels(place, cfg.context)
    model = build_model(dataset.vocabulary).to(place)
    origin = begin(model)
    optimizer = planned.knowing(targets=len(dataset.train)).build(model)
    sharding = share_out(cfg.shard_optimizer, planned, optimizer, model, cfg.batch.tokens, ranks)
    dtype = device.resolve_dtype(cfg.dtype, place)
    clock = Clock(place)
    attempt.callback(clock.close)
    uncharged = 0.0 if planned.info.charges else uncharged_per_step(planned.build, model)
    ledger = Ledger(uncharged_per_step=uncharged, total=sharding.total)
    objective = TimedObjective(
        model, sequences=cfg.sequences, flops_per_token=model.flops_per_token(cfg.context), clock=clock, ledger=ledger,
        sampled_flops_per_token=model.sampled_flops_per_token(cfg.context), seed=cfg.seed, ranks=ranks,
        forward=device.compiled(model) if compiled else model, dtype=dtype, grad_clip=cfg.grad_clip, sharding=sharding,
    )  # fmt: skip
    # A run that goes on keeps its micro-batches: others would give other bits.
    wanted = before["resolved"]["micro"] if before and before["ranks"] == ranks.world else cfg.batch.micro
    objective.micro = resolve_micro(wanted, cfg.sequences, ranks.world, cfg.context, place, objective.attempt)
    device.reset_peak_memory(place)
    spread = (ranks.rank, ranks.world, place, cut_for(model.masking, dataset.vocabulary, dataset.special))
    loader = Loader(dataset.train, cfg.context, cfg.sequences, cfg.seed, *spread)
    windows = evaluation_batches(dataset.val, cfg.context, cfg.eval.tokens, objective.micro, *spread)

    folder = attempt.folder
    recorder = Recorder(cfg, folder, objective, optimizer, lambda: optimizers.metrics(optimizer, sharding.each))
    saved: list[checkpoint.Stateful] = [Threads(), clock, ledger, recorder, objective.sizes]
    start = checkpoint.restore(saved, newest[1]) if newest else 0
    facts = manifest.facts_of(cfg, folder.digest, objective, dataset.entry(), place, compiled, kernels)
    folder.open({**facts, **planned.facts(), "init_from": origin}, cfg.resume, start)
    if newest:
        checkpoint.load(newest[0], model, optimizer, sharding)
    folder.cut(start, [step for step in range(start) if recorder.due(step)])
    if ranks.first:
        print("".join(f"note: {each}\n" for each in planned.notes(cfg.schedule["kind"])), end="")
        recorder.trackers += [make_tracker(folder.path, folder.config, folder.manifest, **tracker_keywords)]
        recorder.trackers += [ProgressDisplay(folder.path.name, cfg.steps, start)]  # last: its bar would wrap
        attempt.watch(recorder.trackers)

    def evaluate_now() -> MeanLoss:
        with sharding.gathered(optimizers.eval_weights(optimizer)):
            return evaluate(model, windows, ranks, dtype, objective.forward if compiled else None)

    def save(step: int) -> None:
        folder.sync()
        state = {"config_hash": folder.digest, **checkpoint.states(saved)}
        evaluated = sharding.gathered(optimizers.eval_weights(optimizer))
        checkpoint.save(checkpoints, step, model, optimizer, state, evaluated, sharding)

    return Parts(cfg, clock, loader, schedule, objective, optimizer, recorder, evaluate_now, save, start)


if __name__ == "__main__":
    command(main)()
