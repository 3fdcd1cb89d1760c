"""optimizers.md: the tables made from optimizers.json."""

from collections.abc import Mapping
from typing import Any

from scripts.suite import curves, exactness, step_goals, updates
from scripts.suite.exactness import shown
from scripts.suite.folder import Cell, commits, figure, markdown
from scripts.suite.step_estimates import NOTE, estimated
from scripts.suite.steps import OURS


def table(book: dict[str, Any]) -> str:
    device = book["identity"]["device"]
    text = (
        f"# Optimizer steps on {device}\n\n"
        f"Whole models, an embedding of {book['identity']['vocabulary']} rows included; commit "
        f"{commits(book['rows'])}. Milliseconds of a plain step, of one that refreshes, and of the mean over a period; "
        "that mean beside fused AdamW's, measured in turns with it (lowest to highest). Floor: what our way to that "
        "mean moves at the least, at AdamW's bandwidth in the same rounds, and its matrix work at the rate of the best "
        "product in its precision, one after the other. Hooks: what they add to the pass of one sequence, times an "
        "update's sequences, which is rough. Of a step: the mean as a share of halfstep's whole update with AdamW; of "
        "an optimizer with hooks what its whole update takes beyond that one, as measured below (of whole updates), "
        "or else the mean and its hooks' time (scaled). And the slowest step over the median one, AdamW's update "
        "before both and no hooks. Gradients and curvature estimates are given.\n\n"
    )

    def share(row: Mapping[str, Any]) -> str:
        if row["share_of_step"] is None:
            return step_goals.UNKNOWN
        which = f" ({row['share_is']})" if row.get("share_is") else ""
        return f"{100 * row['share_of_step']:.2f} %{which}"

    def over_floor(row: Mapping[str, Any]) -> str:
        return f"{row['amortised_ms'] / row['floor_ms']:.2f}" if row.get("floor_ms") else ""

    def estimate(row: Mapping[str, Any]) -> str:
        ours = row["implementation"].startswith(OURS)
        return estimated(device, row["model"], shown(row["optimizer"], row["way"])) if ours else ""

    order = list(dict.fromkeys((row["model"], row["optimizer"]) for row in book["rows"]))

    def place(row: Mapping[str, Any]) -> int:
        """An optimizer's ways stand together, though they were not measured so."""
        return order.index((row["model"], row["optimizer"]))

    def whose(row: Mapping[str, Any]) -> str:
        by = f" by {row['implementation']}" if row.get("implementation") else ""
        return shown(row["optimizer"], row["way"]) + by

    estimates = any(map(estimate, book["rows"]))
    columns: dict[str, Cell] = {
        "model": "model", "optimizer": lambda row: shown(row["optimizer"], row["way"]),
        "by": "implementation", "plain ms": figure("plain_ms", 2), "refresh ms": figure("refresh_ms", 2),
        "mean ms": figure("amortised_ms", 2), "x AdamW": lambda row: f"{row['ratio']['median']:.3g}",
        "range": lambda row: f"{row['ratio']['low']:.3g} to {row['ratio']['high']:.3g}",
        "floor ms": figure("floor_ms", 2), "mean / floor": over_floor,
        **({"estimated ms": estimate} if estimates else {}),
        "worst/mean": figure("worst_over_mean", 2), "hooks ms": figure("hooks_ms_per_update", 2),
        "of a step": share, "slowest step ms": figure("worst_ms", 2),
        "whole steps, slowest/median": figure("worst_over_median_step", 3), "rounds": figure("rounds"),
        "state bytes per parameter": figure("state_bytes_per_parameter", 1),
    }  # fmt: skip
    text += (NOTE if estimates else "") + markdown(columns, sorted(book["rows"], key=place))
    if book["failures"]:
        text += "\n" + "".join(f"- {each['model']}, {whose(each)}: {each['error']}\n" for each in book["failures"])
    text += updates.table(book.get("updates", [])) + step_goals.table(book)
    return text + exactness.table(book["drift"]) + curves.table(book["curves"])
