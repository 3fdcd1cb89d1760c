"""What throughput is held against: goals on one H100, and what others published."""

from collections.abc import Iterator, Mapping
from typing import Any

from scripts.suite import beside, goals
from scripts.suite.folder import Cell, figure, markdown
from scripts.suite.goals import MODEL, Goal

LARGER = ("gpt2_355m", "gpt2_770m")
# At 524,288 tokens per update, per GPU; MFU at 855 MFLOP per token and 989 TFLOP/s, as ours is.
PUBLISHED: list[dict[str, Any]] = [
    {"source": "llm.c, exact GPT-2", "hardware": "8 x H100", "rate": 468e3, "mfu": 0.405},
    {"source": "modded-nanogpt of October 2024, Adam", "hardware": "8 x H100", "rate": 473e3, "mfu": 0.409},
    {"source": "modded-nanogpt's track 3, spectral descent", "hardware": "1 x H200", "rate": 490e3, "mfu": 0.423},
]


def table(book: Mapping[str, Any]) -> str:
    """Markdown; empty but for the device and the setting that all of it is about."""
    if not goals.judged(book["identity"], book["identity"]["device"]):
        return ""
    return goals.table(_found(book)) + _published(book)


def _found(book: Mapping[str, Any]) -> Iterator[tuple[Goal, float | None, str]]:
    def ours(model: str, key: str) -> float | None:
        value = (beside.ours(book, model) or {}).get(key)
        return None if value is None else float(value)

    def rounds(model: str) -> str:
        row = beside.ours(book, model)
        return beside.rounds(row) if row else ""

    ratio, theirs = beside.nanogpt(book, MODEL)
    yield Goal("125M, beside nanoGPT's tokens/s", "times", at_least=1.25), ratio, theirs
    yield Goal("125M, of the best bf16 product's rate", "share", at_least=0.6), ours(MODEL, "of_matmul"), rounds(MODEL)
    yield Goal("125M, tokens/s", "rate", at_least=580e3), ours(MODEL, "tokens_per_second"), rounds(MODEL)
    for model in (MODEL, *LARGER):
        name = model.removeprefix("gpt2_").upper()
        yield Goal(f"{name}, MFU", "share", at_least=0.5), ours(model, "mfu"), rounds(model)
    start = {row["cache"]: row for row in book["start"] if row["model"] == MODEL}
    for cache, most in (("cold", 60.0), ("warm", 15.0)):
        seconds = start.get(cache, {}).get("first_update_seconds")
        yield Goal(f"125M, from the command to the first update, {cache} cache", "seconds", at_most=most), seconds, ""
    shares = [row["input_share"] + row["log_share"] for row in start.values() if "input_share" in row]
    yield Goal("125M, input and logging, of a step", "share", at_most=0.005), max(shares, default=None), ""


def _published(book: Mapping[str, Any]) -> str:
    rate = (beside.ours(book, MODEL) or {}).get("tokens_per_second")
    rows = [{**each, "ours": rate / each["rate"] if rate else None} for each in PUBLISHED]
    columns: dict[str, Cell] = {
        "published": "source", "on": "hardware", "tokens/s per GPU": figure("rate"),
        "MFU": figure("mfu", 1, 100, " %"), "halfstep here, of that": figure("ours", 2, 1, "x"),
    }  # fmt: skip
    return (
        "\nOthers' own figures of 124M parameters, from their machines: another driver, torch and clock; track 3 is "
        f"another architecture.\n\n{markdown(columns, rows)}"
    )
