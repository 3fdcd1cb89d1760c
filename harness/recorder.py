"""Rows of metrics.jsonl: what the weights after s updates are worth, what they cost, and the update made from them.

A row opens before update s (costs so far, validation loss) and closes after it (loss and gradient norm at those very
weights, the update's size). Device tensors are read when a row closes, and at no other time.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping, ValuesView
from typing import Any

import torch
from torch import Tensor, nn

from harness.config import Config
from harness.device import peak_flops, peak_memory
from harness.evaluate import MeanLoss
from harness.micro_batch import StepRecord
from harness.objective import TimedObjective
from harness.run_folder import RunFolder
from harness.tracker import Tracker

Row = dict[str, Any]


class Recorder:
    """Keeps a run's rows.

    Args:
        own_metrics: the numbers that the optimizer reports of itself, by short name.

    Attributes:
        trackers: get every row, after metrics.jsonl.
    """

    key = "recorder"

    def __init__(
        self,
        cfg: Config,
        folder: RunFolder,
        objective: TimedObjective,
        optimizer: torch.optim.Optimizer,
        own_metrics: Callable[[], Mapping[str, Tensor | float]],
    ) -> None:
        self.cfg, self.folder, self.optimizer, self.own_metrics = cfg, folder, optimizer, own_metrics
        self.model, self.clock, self.ledger = objective.model, objective.clock, objective.ledger
        self.device = str(objective.device)
        self.each = objective.sharding.each
        self.parameters = objective.params
        self.kinds = [layer_kind(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        self.trackers: list[Tracker] = []
        self.peak = peak_flops(self.device)
        self.clipped = torch.zeros((), device=self.parameters[0].device)
        self.diverged_at: int | None = None
        self._row: Row | None = None
        self._before: list[Tensor] = []
        self._unread: list[tuple[int, Tensor, Tensor, Tensor]] = []  # step, loss, the gradient's norm, each parameter's
        self._culprits: list[str] = []  # parameters whose gradient was the first not to be finite
        self._previous: Row | None = None

    def evaluation_due(self, step: int) -> bool:
        return step % self.cfg.eval.every == 0 or step == self.cfg.steps

    def due(self, step: int) -> bool:
        return step % self.cfg.log.every == 0 or self.evaluation_due(step)

    def open(self, step: int, evaluation: MeanLoss | None) -> bool:
        """Begin the row of the weights after `step` updates; False where the run has diverged and must end.

        The last row is written at once: no update is made from its weights. The manifest keeps the parts of its
        evaluation.
        """
        val_loss = None if evaluation is None else evaluation.loss
        with self.clock.paused("log"):
            row: Row = {"step": step, "tokens": step * self.cfg.batch.tokens}
            if val_loss is not None:
                row["val/loss"] = val_loss
            row |= {f"flops/{kind}": flops for kind, flops in self.ledger.at(step).items()}
            row |= {f"seconds/{part}": seconds for part, seconds in self.clock.seconds().items()}
            # Trials of what fits are forgotten, and with them what was before: the rows remember that.
            row["memory/peak"] = max(peak_memory(self.device), (self._previous or {}).get("memory/peak", 0))
            row |= self._throughput(row)
            if step > 0:
                row["gradient/clipped"] = self.clipped.item() / step
            self._row = row
            if val_loss is not None:
                self._note_target(row)
            if val_loss is not None and not math.isfinite(val_loss):
                self.diverged_at = step
            if evaluation is not None and step == self.cfg.steps and self.diverged_at is None:
                targets, losses = zip(*evaluation.parts, strict=True)
                self.folder.update(validation={"targets": list(targets), "losses": list(losses)})
            if step == self.cfg.steps or self.diverged_at is not None:
                self._write()
            else:
                self._before = [p.detach().clone() for p in self.parameters]
        return self.diverged_at is None

    def close(self, step: int, record: StepRecord) -> bool:
        """Take up what update `step` left; False where the run has diverged and must end."""
        if record.loss is None or record.norm is None or record.norms is None or record.clipped is None:
            name = type(self.optimizer).__name__
            raise ValueError(
                f"optimizer: {name} made a step without calling its closure, so there was nothing to measure"
            )
        self.clipped += record.clipped
        self._unread.append((step, record.loss, record.norm, record.norms))
        if self._row is None:
            return True
        with self.clock.paused("log"):
            row = self._row
            if "initial_lr" in (group := self.optimizer.param_groups[0]):  # some external classes follow no schedule
                row["lr"] = group["lr"]
            row["train/loss"], row["gradient/norm"] = record.loss.item(), record.norm.item()
            if record.auxiliary is not None:
                row["train/auxiliary"] = record.auxiliary.item()
            row |= self._update_sizes()
            kept = self.each(state_bytes(self.optimizer))
            row["memory/state"] = state = sum(kept)
            if len(kept) > 1:
                row["memory/state_of_rank"] = max(kept)
            row["memory/state_per_parameter"] = state / sum(p.numel() for p in self.parameters)
            row |= {f"optimizer/{name}": float(value) for name, value in self.own_metrics().items()}
            healthy = self.healthy()
            self._write()
        return healthy

    def healthy(self) -> bool:
        """Say whether every loss and gradient norm so far was finite; reads what has not been read yet."""
        if self._unread and self.diverged_at is None:
            values = torch.stack([torch.stack((loss.float(), norm.float())) for _, loss, norm, _ in self._unread])
            bad = (~values.isfinite().all(dim=1)).nonzero().flatten().tolist()
            if bad:
                self.diverged_at, _, _, norms = self._unread[bad[0]]
                named = [name for name, p in self.model.named_parameters() if p.grad is not None]
                finite = norms.isfinite().tolist()
                self._culprits = [name for name, good in zip(named, finite, strict=False) if not good]
            self._unread = []
        return self.diverged_at is None

    def diagnosis(self) -> str | None:
        """Say how the run diverged, and where its gradient was not finite first; None if it did not diverge.

        A row of the step at which it did is written if there is none yet.
        """
        if self.diverged_at is None:
            return None
        if self._previous is None or self._previous["step"] < self.diverged_at:
            tokens = self.diverged_at * self.cfg.batch.tokens
            self._row = {"step": self.diverged_at, "tokens": tokens, "train/loss": math.nan}
            self._write()
        named = self._culprits
        where = f"; the gradient is not finite in {', '.join(named[:3])}" if named else ""
        more = f" and {len(named) - 3} more" if len(named) > 3 else ""
        return f"the loss or its gradient was not finite at step {self.diverged_at}{where}{more}"

    def state(self) -> dict[str, Any]:
        return {"clipped": self.clipped.item()}

    def restore(self, state: dict[str, Any]) -> None:
        self.clipped.fill_(state["clipped"])

    def _write(self) -> None:
        assert self._row is not None
        row, self._row, self._before = self._row, None, []
        self._previous = row
        self.folder.append(row)
        for tracker in self.trackers:
            tracker.log(row)

    def _throughput(self, row: Row) -> Row:
        if self._previous is None:
            return {}
        seconds = row["seconds/total"] - self._previous["seconds/total"]
        if seconds <= 0:
            return {}
        rates = {"throughput/tokens_per_second": (row["tokens"] - self._previous["tokens"]) / seconds}
        if self.peak:
            flops = row["flops/model"] - self._previous["flops/model"]
            rates["throughput/mfu"] = flops / seconds / self.peak / self.folder.manifest["ranks"]
        return rates

    def _update_sizes(self) -> Row:
        """Return the update's 2-norm over that of the weights before it, and each layer kind's share of its square."""
        difference = torch._foreach_sub([p.detach() for p in self.parameters], self._before)
        squares = torch.stack(torch._foreach_norm(difference)).double().square()
        weights = nn.utils.get_total_norm(self._before).double().clamp(min=1e-30)
        whole = squares.sum()
        by_kind = {kind: torch.zeros_like(whole) for kind in self.kinds}
        for kind, square in zip(self.kinds, squares.unbind(), strict=True):
            by_kind[kind] += square
        sizes = torch.stack([whole.sqrt() / weights, *by_kind.values()]).tolist()
        shares = [size / max(whole.item(), 1e-300) for size in sizes[1:]]
        return {
            "update/weight_ratio": sizes[0],
            **{f"update/share_{kind}": share for kind, share in zip(by_kind, shares, strict=True)},
        }

    def _note_target(self, row: Row) -> None:
        target = self.cfg.target_loss
        crossed = target is not None and math.isfinite(row["val/loss"]) and row["val/loss"] <= target
        if crossed and not self.folder.manifest.get("target"):
            keys = ("step", "tokens", "val/loss", "flops/total", "seconds/total")
            self.folder.update(target={"loss": target, **{key: row[key] for key in keys}})


def layer_kind(name: str, p: Tensor) -> str:
    """Name what a layer is in any block: a matrix has the name of its module, and the rest are vectors."""
    return "vectors" if p.ndim < 2 or "." not in name else name.split(".")[-2]


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Count the bytes of all tensors in an optimizer's state."""
    return tensor_bytes(optimizer.state.values())


def tensor_bytes(held: Any) -> int:
    """Count the bytes of all tensors in nested mappings and sequences; a tensor that is there twice counts once."""
    seen: dict[int, int] = {}

    def walk(value: Any) -> None:
        if isinstance(value, Tensor):
            seen[id(value)] = value.numel() * value.element_size()
        elif isinstance(value, Mapping):
            for item in value.values():
                walk(item)
        elif isinstance(value, (list, tuple, deque, ValuesView)):
            for item in value:
                walk(item)

    walk(held)
    return sum(seen.values())
