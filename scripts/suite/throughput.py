"""throughput.json of bench_suite: rows of what its rounds measured, and the table."""

import json
from collections.abc import Sequence
from typing import Any

from scripts.bench.timing import spread
from scripts.suite import beside, curves, marks
from scripts.suite.beside import PLAIN
from scripts.suite.folder import Cell, Folder, commits, figure, markdown

FILE, TABLE = "throughput.json", "throughput.md"


def keep(book: dict[str, Any], folder: Folder) -> None:
    book["rows"] = rows(book)
    folder.write(FILE, book)
    folder.write_table(TABLE, table(book))


def rows(book: dict[str, Any]) -> list[dict[str, Any]]:
    """One for each system, variant and model; `beside` is the ratio to its match's other side, round by round."""
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for each in book["rounds"]:
        own = each["match"] in (each["variant"], PLAIN)  # not halfstep as it is beside a variant
        if own:
            found.setdefault((each["model"], each["system"], each["variant"]), []).append(each)
    peak, product = (book.get("device") or {}).get("peak_flops"), book.get("matmul_flops")
    return [_row(key, mine, book["rounds"], peak, product) for key, mine in found.items()]


def _row(
    key: tuple[str, str, str], mine: Sequence[dict[str, Any]], rounds: Sequence[dict[str, Any]], peak: float | None,
    product: float | None,
) -> dict[str, Any]:  # fmt: skip
    model, system, variant = key
    rate = spread([each["tokens_per_second"] for each in mine])
    flops = rate["median"] * mine[-1]["flops_per_token"]
    other = "nanogpt" if (system, variant) == ("halfstep", PLAIN) else system
    ratios = [
        each["tokens_per_second"] / theirs["tokens_per_second"]
        for each in mine
        for theirs in rounds
        if (theirs["model"], theirs["match"], theirs["round"]) == (model, each["match"], each["round"])
        and (theirs["system"], theirs["variant"]) == (other, PLAIN) != (system, variant)
    ]
    return {
        "system": system, "variant": variant, "model": model,
        "tokens_per_second": rate["median"], "lowest": rate["low"], "highest": rate["high"],
        "mfu": flops / peak if peak else None, "of_matmul": flops / product if product else None,
        "beside": {"what": "nanogpt" if other == "nanogpt" != system else PLAIN, **spread(ratios)} if ratios else None,
        **{name: mine[-1][name] for name in ("micro_batch", "peak_bytes", "syncs_per_update", "flops_per_token")},
        "rounds": len(mine), "commits": commits(mine),
    }  # fmt: skip


def table(book: dict[str, Any]) -> str:
    """throughput.md."""
    identity, product = book["identity"], book.get("matmul_flops")
    lines = [f"# Throughput on {identity['device']}", ""]
    lines += [f"{identity['tokens']:,} tokens per update, context {identity['context']}, random tokens, vocabulary "
              f"{identity['vocabulary']:,}; commit {commits(book['rounds'])}. Medians (lowest to highest) over "
              "interleaved rounds. MFU is by the data sheet's dense bf16 rate."]  # fmt: skip
    lines += [f"The best product runs at {product / 1e12:,.1f} TFLOP/s, in {identity['dtype']}."] if product else []

    def ratio(row: Any) -> str:
        beside = row["beside"]
        return f"{beside['median']:.3f} of {beside['what']}" if beside else ""

    columns: dict[str, Cell] = {
        "model": "model", "system": "system", "variant": "variant", "tokens/s": figure("tokens_per_second"),
        "range": lambda row: f"{row['lowest']:,.0f} to {row['highest']:,.0f}", "beside": ratio,
        "MFU": figure("mfu", 1, 100, " %"), "of the product's rate": figure("of_matmul", 1, 100, " %"),
        "micro-batch": "micro_batch", "peak GB": figure("peak_bytes", 1, 1e-9), "syncs": "syncs_per_update",
        "rounds": "rounds",
    }  # fmt: skip
    shown = sorted(book["rows"], key=lambda row: (row["model"], row["variant"] != PLAIN))
    text = "\n".join(lines) + "\n\n" + markdown(columns, shown)
    if book["failures"]:
        text += "\n" + "".join("- {model}, {system} ({variant}): {error}\n".format(**f) for f in book["failures"])
    if book["start"]:
        columns = {
            "train.py's compiler cache": "cache", "seconds to the first update": figure("first_update_seconds", 1),
            "of them in the compiler": figure("compile_seconds", 1),
            "input, of a step": figure("input_share", 2, 100, " %"),
            "logging": figure("log_share", 2, 100, " %"),
        }  # fmt: skip
        text += "\n" + markdown(columns, book["start"])
    return text + marks.table(book) + curves.table(book["curves"])


def step_seconds(folder: Folder, model: str) -> float | None:
    """Of halfstep's update of that model, as measured here before; None: not measured."""
    path = folder.path / FILE
    if not path.is_file():
        return None
    book: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    row = beside.ours(book, model)
    return book["identity"]["tokens"] / row["tokens_per_second"] if row else None
