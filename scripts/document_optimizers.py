"""Writes docs/optimizers.md out of the registry, the configs and what each optimizer announces of its cost.

python -m scripts.document_optimizers
"""

import inspect
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent, fill

import optimizers
from conventions.config_keys import CONFIGS
from conventions.grid import Grid, markdown
from conventions.sentence import Arguments
from optimizers import OptimizerInfo
from scripts.optimizers import GPT2, costed, model_flops, passes

PAGE = CONFIGS.parent / "docs" / "optimizers.md"
HEAD = """\
# The optimizers

This page describes every optimizer of halfstep: its equations, its keys with their defaults, its cost, what is known to
go wrong, and the tests that compare it with its equations in float64 and with the code of others. `make docs` writes
this page from the code. The costs are those of {model} with {tokens:,} tokens per update; the gradient of such an
update takes {flops:,.0f} TFLOPs. `python -m scripts.optimizers model=gpt2_125m optimizer=soap` shows how an
optimizer treats each parameter. Beside its own keys each optimizer with a weight decay takes
`optimizer.decay_embeddings=false`: embeddings, a head tied to one, and learned positions are then not decayed. Each
takes `optimizer.hyperball`, `optimizer.cautious_decay` and `optimizer.average` too, which
[change its step](changed-steps.md).

{table}

halfstep also trains classes of other packages, with `optimizer=external optimizer._target_=package.module.Class`; see
[Any optimizer](any-optimizer.md). These configs choose such a class: {external}.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Arguments.of("scripts.document_optimizers", __doc__)
    parser.parse_args(arguments)
    PAGE.write_text(page())
    print(PAGE)


def page() -> str:
    infos = optimizers.list_optimizers()
    sections, rows = zip(*(section(info) for info in infos), strict=True)
    cfg, model, _ = costed([f"{key}={value}" for key, value in GPT2.items()])
    shares = ["matrix FLOPs, share of the model's", "extra passes, share of a gradient"]
    header = ["optimizer", "state, bytes per parameter", *shares]
    external = [f"[{name}](../configs/optimizer/{name}.yaml)" for name in external_configs()]
    head = HEAD.format(
        model=cfg.model["name"], tokens=cfg.batch.tokens, flops=model_flops(cfg, model) / 1e12,
        table=markdown(Grid("", header, list(rows))), external=", ".join(external),
    )  # fmt: skip
    return "\n".join([head, *sections])


def section(info: OptimizerInfo) -> tuple[str, list[str]]:
    """Return an optimizer's own section, and its row of the table."""
    cfg, model, cost = costed([*(f"{key}={value}" for key, value in GPT2.items()), f"optimizer={info.name}"])
    size = sum(p.numel() for p in model.parameters())
    share = (cost.flops or 0) / model_flops(cfg, model)
    kept, extra = f"{cost.state_bytes / size:.2f}", f"{cost.extra_passes:.0%}"
    row = [f"[{info.name}](#{info.name})", kept, f"{share:.2%}", extra]
    title, _, about = dedent(info.about).strip().partition("\n")
    source = Path(inspect.getsourcefile(inspect.unwrap(info.constructor)) or "")
    code = f"[optimizers/{source.name}](../optimizers/{source.name})"
    if source.parent != CONFIGS.parent / "optimizers":
        code = f"`torch.optim.{info.constructor.__name__}`"
    parts = [
        f"## {info.name}", "", title, "", about.strip("\n"), "",
        "```yaml", (CONFIGS / "optimizer" / f"{info.name}.yaml").read_text().strip(), "```", "",
        wrapped(
            f"**Cost.** {kept} bytes of state per parameter; {(cost.flops or 0) / 1e9:,.1f} GFLOPs of matrix work an "
            f"update, {share:.2%} of the model's; {passes(cost)}."
        ), "",
    ]  # fmt: skip
    if info.presets:
        parts += [wrapped(f"**Presets.** {info.presets}"), ""]
    if info.pitfalls:
        parts += [wrapped(f"**Goes wrong.** {info.pitfalls}"), ""]
    proof = f" · **proof** [{info.proof}](../{info.proof})" if info.proof else ""
    parts += [f"**Code** {code}{proof}", ""]
    return "\n".join(parts), row


def wrapped(text: str) -> str:
    return fill(text, width=120, break_long_words=False, break_on_hyphens=False)


def external_configs() -> list[str]:
    paths = (CONFIGS / "optimizer").glob("*.yaml")
    return sorted(p.stem for p in paths if p.stem != "external" and "\nname: external" in p.read_text())


if __name__ == "__main__":
    main()
