"""The bench's list of measurements: configs/bench.yaml, with what the command line asks for, on this device."""

from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import data
from conventions.config_keys import CONFIGS
from conventions.keywords import bind
from conventions.yaml_file import parse_yaml, read_yaml
from harness.device import resolve_compile
from optimizers import list_optimizers
from scripts.bench.measurement import ALONE, BESIDE, Measurement, Side
from scripts.bench.setting import Setting, section_of
from scripts.bench.training import WARM_UP

PLACE = "scripts.bench"
Words = Mapping[str, Any]


def book(rehearse: bool = False) -> dict[str, Any]:
    """Read configs/bench.yaml; in a rehearsal with its small shapes."""
    entries = read_yaml(CONFIGS / "bench.yaml")
    for section, changes in entries["rehearsal"].items() if rehearse else ():
        entries[section] = {**entries[section], **changes} if isinstance(changes, dict) else changes
    return entries


class Plan:
    """Lists what a call is to measure.

    options: after `scripts.bench.__main__.check`. checkouts: folders by name, of peers and of optimizers' references.
    """

    def __init__(self, book: dict[str, Any], options: Namespace, device: str, checkouts: Mapping[str, Path]) -> None:
        self.book, self.options, self.device, self.checkouts = book, options, device, checkouts
        self.cuda, self.train = device != "cpu", book["train"]
        compiled = resolve_compile({"true": True, "false": False}.get(options.compile, "auto"), device)
        self.setting = {"device": device, "compile": compiled, "files": self.files("random")}
        self.seconds = options.seconds or (2.0 if self.cuda else 0.05 if options.rehearse else 0.4)

    def measurements(self, parts: Sequence[str]) -> list[Measurement]:
        """List the measurements in the order of their worth."""
        train, steps = (self.options.model or self.book[section]["models"] for section in ("train", "steps"))
        keywords = {"device": self.device, "context": self.train["context"]}
        products = Measurement("products", {}, (Side("products", "harness.products:products", keywords),))
        every = [
            *self.updates(), products, *self.rates(train[0]), *self.steps(steps[0]), *self.whole(train[0]),
            *self.variants(train[0]), *self.drift(), *(one for model in train[1:] for one in self.rates(model)),
            *(one for model in steps[1:] for one in self.steps(model)),
        ]  # fmt: skip
        return [one for one in every if one.part in parts]

    def files(self, corpus: str) -> list[str]:
        """Return the shards of bytes of Python's own source text, or of random tokens."""
        if corpus == "text":
            return [str(shard.path.resolve()) for shard in data.load("stdlib", quiet=True).train]
        tokens, vocabulary = max(2**20, 8 * self.train["tokens"]), min(self.train["vocabulary"], 50_257)
        made = {"tokens": tokens, "val_tokens": 1, "vocabulary": vocabulary, "structure": "uniform"}
        corpus_data = data.load("synthetic", quiet=True, dir=str(self.options.scratch), **made)
        return [str(shard.path) for shard in corpus_data.train]

    def names(self) -> list[str]:
        """Return the names of the registered optimizers that are asked for."""
        known = [info.name for info in list_optimizers()]
        return [name for name in known if name in (self.options.only or known)]

    def asked(self, entries: Sequence[Words]) -> list[Words]:
        """Return the entries of optimizers that are asked for, in ways that the device has."""
        alone = set() if self.cuda else set(self.book["cuda_alone"])
        values = [set(map(str, entry.get("way", {}).values())) for entry in entries]
        return [e for e, way in zip(entries, values, strict=True) if e["optimizer"] in self.names() and not alone & way]

    def about(self, model: str, tokens: int | None = None) -> dict[str, Any]:
        """Return what names a measurement of whole updates: the model, and the size of its batch."""
        context = min(self.train["context"], section_of("model", model)["context"])
        return {"model": model, "tokens": tokens or self.train["tokens"], "context": context,
                "vocabulary": self.train["vocabulary"], "compile": self.setting["compile"]}  # fmt: skip

    def halfstep(self, about: Words, optimizer: str, way: Words, name: str, **changes: Any) -> Side:
        keywords = {"optimizer": optimizer, "way": way, **self.setting, **about, **changes}
        return Side(name, f"{PLACE}.training:Halfstep", keywords)

    def baseline(self, about: Words, **changes: Any) -> Side:
        """Return the side of halfstep with nanoGPT's optimizer."""
        return self.halfstep(about, **self.book["baseline"], name="halfstep", **changes)

    def peers(self, model: str) -> bool:
        """Say whether nanoGPT is there, and has such a model: GPT-2 is all that it has."""
        return "nanogpt" in self.checkouts and section_of("model", model)["family"] == "gpt2"

    def nanogpt(self, about: Words, **changes: Any) -> Side:
        keywords = {"checkout": str(self.checkouts["nanogpt"]), **self.book["nanogpt"], **self.setting, **about}
        return Side("nanogpt", f"{PLACE}.training:NanoGPT", {**keywords, **changes})

    def turns(self, part: str, about: Words, sides: tuple[Side, ...], rounds: int, **others: Any) -> Measurement:
        order = BESIDE if len(sides) == 2 else ALONE
        return Measurement(part, about, sides, order, self.options.rounds or rounds, self.seconds, **others)

    def updates(self) -> Iterator[Measurement]:
        """Yield measurements of every optimizer's first updates, on text, so that the loss falls."""
        section = self.book["updates"]
        for name in sorted(self.names(), key=lambda name: (section["first"] + self.names()).index(name)):
            about = self.about((self.options.model or [section["model"]])[0], section["tokens"])
            yield Measurement("updates", about, (self.halfstep(about, name, {}, name, files=self.files("text")),),
                              updates=section["number"] - WARM_UP, limit=section["limit"],
                              together=section["together"] if self.cuda else 1)  # fmt: skip

    def rates(self, model: str) -> Iterator[Measurement]:
        """Yield measurements of throughput: beside nanoGPT's loop, if it is there, and on a GPU beside programs."""
        about = self.about(model)
        ours = self.baseline(about)
        sides = (ours, self.nanogpt(about)) if self.peers(model) else (ours,)
        yield self.turns("train", about, sides, self.train["rounds"], parts=True)
        for one in self.book["programs"] if self.cuda else ():
            if one["model"] == model and (checkout := self.checkouts.get(one["checkout"])):
                keywords = {"program": one, "checkout": str(checkout), "tokens": about["tokens"]}
                sides = (ours, Side(one["name"], f"{PLACE}.programs:program", keywords))
                yield Measurement("train", about, sides, "ABA", 1, self.seconds, limit=one["limit"] + 40)

    def variants(self, model: str) -> Iterator[Measurement]:
        """Yield a measurement of each variant beside the same side without it."""
        for text in self.options.variants or self.train["variants"]:
            if text.startswith("nanogpt:") and not self.peers(model):
                raise ValueError(f"--variants {text}: nanoGPT has no {model}, or --nanogpt is not given")
            about, pairs = self.about(model), text.removeprefix("nanogpt:").split("+")
            changes = {key: parse_yaml(value, text) for key, _, value in (pair.partition("=") for pair in pairs)}
            bind(Setting, {**self.setting, **about, **changes}, "")
            plain = self.nanogpt if text.startswith("nanogpt:") else self.baseline
            one, other = plain(about, **changes), plain(about)
            sides = (Side(f"{other.name} {'+'.join(pairs)}", one.kind, one.keywords), other)
            yield self.turns("train", about, sides, self.train["rounds"])

    def whole(self, model: str) -> Iterator[Measurement]:
        """Yield measurements of updates that take more than a gradient and a step, beside the baseline's."""
        for entry in self.asked(self.book["whole"]):
            name, about = entry["optimizer"], self.about(model)
            sides = (self.halfstep(about, name, {}, name), self.baseline(about))
            yield self.turns("whole", {**about, "optimizer": name}, sides, entry["rounds"])

    def steps(self, model: str) -> Iterator[Measurement]:
        """Yield measurements of steps beside fused AdamW's, and beside those of others, installed or of a checkout."""
        section, unit = self.book["steps"], self.book["unit"]
        named = [*section["order"], *self.options.way]
        rest = [{"optimizer": name} for name in self.names() if all(e["optimizer"] != name for e in named)]
        for entry in self.asked([*named, *rest]):
            name, way, setting = entry["optimizer"], entry.get("way", {}), {**self.setting, **self.about(model)}
            about = {**{key: setting[key] for key in ("model", "vocabulary", "compile")}, "optimizer": name}
            ours = Side(label(name, way), f"{PLACE}.steps:Ours", {"optimizer": name, "way": way, **setting})
            mine = [one for one in self.book["references"] if one["optimizer"] == name and not way]
            for one in [unit, *filter(self.there, mine)]:
                keywords = {"reference": one, "unit": unit, "checkout": str(self.checkouts.get(name)), **ours.keywords}
                theirs = Side(one["by"], f"{PLACE}.steps:Theirs", keywords)
                yield self.turns("step", about, (ours, theirs), section["rounds"], updates=section["number"])

    def there(self, one: Words) -> bool:
        """Say whether a reference's package is installed, or its checkout given."""
        checkout = self.checkouts.get(one["optimizer"], Path("/nowhere"))
        return bool(
            find_spec(one["module"].partition(".")[0]) if "module" in one else (checkout / one["file"]).is_file()
        )

    def drift(self) -> Iterator[Measurement]:
        shape = {key: value for key, value in self.book["drift"].items() if key != "ways"}
        for entry in self.asked(self.book["drift"]["ways"]):
            side = Side(label(entry["optimizer"], entry["way"]), f"{PLACE}.drift:drift",
                        {**entry, **shape, "device": self.device, "files": self.files("text")})  # fmt: skip
            yield Measurement("drift", shape, (side,))


def label(optimizer: str, way: Words) -> str:
    """Write the label of an optimizer's way: `soap stagger=true`, say."""
    return " ".join([optimizer, *(f"{key}={str(value).lower()}" for key, value in way.items())])
