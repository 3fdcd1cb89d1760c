"""Finds the commands of a page, and rehearses one: it shows that the command would work, and does not wait for it.

What trains is composed, what takes long is parsed, what reads runs reads a small study, and of `make` every line of the
recipe is rehearsed in turn. A command of a kind that is not known here fails.
"""

import argparse
import glob
import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from conventions.keywords import bind
from harness.command_line import composed, help_text
from harness.config import parse
from judge.claims.claim_file import find_claim
from judge.claims.evidence import PUBLIC
from optimizers.plan import check_optimizer
from tests.command import ROOT, environment

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PROGRAMS = ("make", "python", "torchrun", "source", "git", "pip", "cd", "rm", "apt-get")
INLINE = re.compile(rf"`((?:{'|'.join(PROGRAMS)})\s[^`]+)`")

# `python -m TOOL`: what it does is its own.
TOOLS = ("pytest", "ruff", "mypy", "mkdocs", "pip", "venv", "tests.slurm", "tests.coverage", "tests.external")
READING = ("speedup", "publish", "runs", "adopt")  # they run, on a small study
DRAWING = ("report", "plot", "dashboard")  # they do so in the slow tests
LONG = ("demo", "public", "verdict", "claims", "bench", "export", "make_tables", "board", "downstream", "mirror")
COMPOSING = ("tune", "optimizers")  # their arguments are train.py's, and some of their own
OWN = re.compile(r"(trials|range\.[^=]+)=")


def commands(text: str) -> Iterator[str]:
    """Every command of a page: the lines of its sh blocks, and what stands between backticks."""
    for language, block in FENCE.findall(text):
        if language == "sh":
            yield from (line for line in block.replace("\\\n", " ").splitlines() if shlex.split(line, comments=True))
    yield from (" ".join(result.split()) for result in INLINE.findall(FENCE.sub("", text)))


class Parsed(Exception):
    """A program has taken its arguments, and would begin."""


class CommandRehearsal:
    """Call it with a command line.

    drawing: whether programs that draw are run as well, which takes seconds.
    """

    def __init__(self, patch: pytest.MonkeyPatch, drawing: bool = False) -> None:
        self.patch = patch
        self.running = READING + (DRAWING if drawing else ())

    def __call__(self, line: str) -> None:
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z0-9_]+=.*", words[0]):  # a variable of the environment
            words = words[1:]
        if not words:
            return
        program, rest = Path(words[0]).name, words[1:]
        if program == "make":
            self.make(rest)
        elif program == "torchrun":
            count, script, *rest = rest
            assert re.fullmatch(r"--nproc_per_node=\d+", count), line
            assert script == "train.py", line
            self.train(rest)
        elif program == "python" and rest[0] == "train.py":
            self.train(rest[1:])
        elif program == "python" and rest[0] == "-m":
            self.module(rest[1], [each for word in rest[2:] for each in sorted(glob.glob(word)) or [word]])
        elif words == ["pip", "install", "."]:
            assert "halfstep_optimizers" in (ROOT / "pyproject.toml").read_text()  # tests/test_package.py does it
        elif words == ["source", ".venv/bin/activate"]:
            assert ".venv" in (ROOT / "Makefile").read_text()
        else:
            raise AssertionError(f"tests/test_docs.py knows no rehearsal of {line!r}: give it one")

    def make(self, words: Sequence[str]) -> None:
        """What `make` would do, line by line. The shell's own words, such as echo, are left to it."""
        done = subprocess.run(["make", "-n", *words], cwd=ROOT, env=environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        recipe = [line for line in done.stdout.replace("\\\n", " ").splitlines() if "/bin/python " in line]
        for line in recipe:
            self(line)

    def train(self, words: Sequence[str]) -> None:
        """The config of the run is composed; of a sweep, configs in which every value comes up."""
        if "--help" in words:
            assert help_text("", list(words)).count("\n") > 30
            return
        settings = [values(word) if "-m" in words else [word] for word in words if word != "-m"]
        for number in range(max(map(len, settings), default=1)):
            check([each[number % len(each)] for each in settings])

    def module(self, name: str, arguments: list[str]) -> None:
        if name in TOOLS:
            assert importlib.util.find_spec(name)
            return
        package, _, program = name.partition(".")
        assert package == "scripts", name
        module = importlib.import_module(name)
        if hasattr(module, "__path__"):  # a program of several files
            module = importlib.import_module(f"{name}.__main__")
        if any(word.startswith(("--take-home", "--ranks=")) for word in arguments):
            module.main(arguments)
        elif program in COMPOSING:  # a word alone is an optimizer, to the program that lists them
            words = [word if "=" in word else f"optimizer={word}" for word in arguments if not word.startswith("--")]
            check([word for word in words if not OWN.match(word)])
        elif program == "prepare":
            recipe, *keys = arguments
            bind(module.data.find(recipe), module.section(recipe, keys), "data")
        elif program in self.running and (program != "adopt" or Path(arguments[0]).exists()):  # nobody watches
            module.main([word for word in arguments if word != "--watch"] + ["--print"] * (program == "dashboard"))
        elif program in (*READING, *DRAWING, *LONG):
            self.parse(module, arguments)
        elif program == "document_optimizers":
            assert not arguments
        else:
            raise AssertionError(f"tests/test_docs.py knows no rehearsal of {name}: give it one")

    def parse(self, module: Any, arguments: list[str]) -> None:
        """Let it take its arguments, and stop it there. A claim must be one, and have that scale."""
        taken = parsed(module, arguments, self.patch)
        if taken.get("claim"):
            claim = find_claim(taken["claim"])
            assert claim.public if taken["scale"] == PUBLIC else claim.scale(taken["scale"])
        if "run" in taken:
            assert Path(taken["run"], "checkpoints").is_dir()


def parsed(module: Any, arguments: list[str], patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The options that a program takes from its arguments; it gets no further."""
    depth = 0

    def stopping(take: Callable[..., Any]) -> Callable[..., Any]:
        def taking(parser: argparse.ArgumentParser, *inputs: Any) -> Any:
            nonlocal depth
            depth += 1
            result = take(parser, *inputs)
            depth -= 1
            if depth:  # argparse has ways through one another
                return result
            options, left = result if isinstance(result, tuple) else (result, [])
            assert not [word for word in left if word.startswith("-")]
            raise Parsed(vars(options))

        return taking

    with patch.context() as stopped:
        for name in ("parse_args", "parse_known_args", "parse_intermixed_args"):
            stopped.setattr(argparse.ArgumentParser, name, stopping(getattr(argparse.ArgumentParser, name)))
        stopped.setattr(sys, "argv", [module.__name__, *arguments])
        with pytest.raises(Parsed) as caught:
            module.main(arguments)
    return caught.value.args[0]


def check(keys: Sequence[str]) -> None:
    """The config that the keys make is one, and its optimizer is there and takes its section."""
    cfg = parse(composed(keys))
    check_optimizer(cfg.optimizer, cfg.allow_targets)


def values(key: str) -> list[str]:
    """Return `seed=0,1,2` as three settings; commas inside brackets separate nothing."""
    name, _, value = key.partition("=")
    return [f"{name}={each}" for each in re.split(r",(?![^\[{]*[\]}])", value)]
