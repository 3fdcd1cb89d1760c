"""Writes one optimizer as one file, for machines without packages: what its class needs of this folder, in order.

The text is that of the folder, comments and all. Left out are the registry's entry and `treat`, which serve the
benchmark, and everything that nothing in the file asks for. The updates are the same to the last bit.
"""

import ast
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from .registry import find
from .wrapped import Wrapped

FOLDER = Path(__file__).parent
LEFT_OUT = "register"  # the decorator of the registry
UNUSED = ("treat", "treat_rest", "changed")  # the methods that announce costs
NOT_HERE = 'raise ImportError("this needs the package halfstep_optimizers, and not its one file")'
LICENCE = """# SPDX-License-Identifier: Apache-2.0
# Taken from halfstep, a benchmark of optimizers, by its program scripts.optimizers. It needs torch alone: import {name}
# from here, and loop as usual.
"""


class _Source:
    """A file of this folder: its top-level statements, by the names that they define, and where others come from."""

    def __init__(self, stem: str) -> None:
        self.text = (FOLDER / f"{stem}.py").read_text(encoding="utf-8")
        self.lines, tree = self.text.splitlines(), ast.parse(self.text)
        self.about = ast.get_docstring(tree, clean=False) or ""
        self.statements: list[ast.stmt] = []
        self.defined: dict[str, list[ast.stmt]] = {}
        self.ours: dict[str, tuple[str, str]] = {}  # name here -> file, name there
        self.imports: dict[str, tuple[str, str]] = {}  # name here -> module, or "" of a module itself; what is imported
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                self._take_import(node)
            elif not isinstance(node, ast.Expr):
                self.statements.append(node)
                for name in _defines(node):
                    self.defined.setdefault(name, []).append(node)

    def _take_import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            name = alias.asname or alias.name
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.module
                assert not alias.asname, f"{alias.name}: an alias would be lost in one file"
                self.ours[name] = (node.module, alias.name)
            else:
                written = f"{alias.name} as {name}" if alias.asname else name
                self.imports[name] = (node.module or "" if isinstance(node, ast.ImportFrom) else "", written)

    def segment(self, node: ast.stmt) -> str:
        """Return a statement's text with the comments above it, and without what is left out."""
        first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])
        start = first
        while start > 1 and self.lines[start - 2].startswith("#"):
            start -= 1
        gone: set[int] = set()
        for part in _dropped(node):
            top = min([part.lineno, *(each.lineno for each in getattr(part, "decorator_list", []))])
            gone |= set(range(top, (part.end_lineno or top) + 1))
            if isinstance(part, ast.FunctionDef):
                gone.add(top - 1)  # the blank line above
        inner = {}  # imports in functions, of what is not in the one file: that branch ends there
        for parent in ast.walk(node):
            body = [] if isinstance(parent, ast.Lambda | ast.IfExp) else getattr(parent, "body", [])
            for each in body:
                if isinstance(each, ast.ImportFrom) and each.level:
                    inner[each.lineno] = " " * each.col_offset + NOT_HERE
                    gone |= set(range(each.lineno + 1, body[-1].end_lineno + 1))
        lines = []
        for number in range(start, (node.end_lineno or start) + 1):
            if number in inner:
                lines.append(inner[number])
            elif number not in gone:
                lines.append(self.lines[number - 1])
        return "\n".join(lines)


def take_home(words: Sequence[str]) -> str:
    """Write the file of one optimizer; return what was written.

    Args:
        words: optimizer=NAME, and --take-home or --take-home=FILE; NAME.py where there is no FILE. `wrapped` is the
            changes to anybody's optimizer.

    Raises:
        ValueError: there are other words, the optimizer is not ours, or the file is there.
    """
    options = dict(word.partition("=")[::2] for word in words)
    if options.keys() != {"optimizer", "--take-home"}:
        raise ValueError("--take-home: give the name of one optimizer and nothing else, as in soap --take-home")
    file = Path(options["--take-home"] or f"{options['optimizer']}.py")
    name = options["optimizer"]
    text = one_file(Wrapped if name == "wrapped" else find(name).constructor)  # type: ignore[arg-type]
    if file.exists():
        raise ValueError(f"--take-home: {file} is there already: move it away, or give --take-home=FILE")
    file.write_text(text, encoding="utf-8")
    return f"{file}: {len(text.splitlines())} lines, which need torch alone"


@cache
def _source(stem: str) -> _Source:
    return _Source(stem)


def _defines(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [each.id for target in targets if target for each in ast.walk(target) if isinstance(each, ast.Name)]


def _dropped(node: ast.stmt) -> list[Any]:
    """Return what is left out of a statement: the registry's decorator, and the methods that announce costs."""
    found: list[Any] = [
        each for each in getattr(node, "decorator_list", [])
        if isinstance(each, ast.Call) and getattr(each.func, "id", "") == LEFT_OUT
    ]  # fmt: skip
    return found + [each for each in getattr(node, "body", []) if getattr(each, "name", "") in UNUSED]


def _names(node: ast.AST, dropped: list[Any]) -> Iterator[str]:
    """Yield every name in a statement but in what is left out of it."""
    for child in ast.iter_child_nodes(node):
        if child not in dropped:
            if isinstance(child, ast.Name):
                yield child.id
            yield from _names(child, dropped)


def one_file(cls: type) -> str:
    """Write the file of an optimizer's class.

    Raises:
        ValueError: the class is none of this folder's.
    """
    package, _, stem = cls.__module__.rpartition(".")
    if package != __name__.rpartition(".")[0]:
        raise ValueError(
            f"{cls.__name__} is of {cls.__module__.partition('.')[0]}, and not halfstep's own: import it there"
        )
    wanted: dict[str, set[str]] = {}  # names by file, the files in the order in which they depend on one another
    imports: dict[str, set[str]] = {}
    order: list[str] = []

    def want(stem: str, name: str) -> None:
        source = _source(stem)
        if name in source.ours:
            want(*source.ours[name])
        elif name in source.imports:
            module, written = source.imports[name]
            imports.setdefault(module, set()).add(written)
        elif name in source.defined and name not in wanted.setdefault(stem, set()):
            wanted[stem].add(name)
            for node in source.defined[name]:
                for each in _names(node, _dropped(node)):
                    want(stem, each)

    def place(stem: str) -> None:
        for module, _ in _source(stem).ours.values():
            if module in wanted and module not in order:
                place(module)
        if stem not in order:
            order.append(stem)

    want(stem, cls.__name__)
    place(stem)
    _check_names(wanted)
    blocks = []
    for each in order:
        source = _source(each)
        kept = [node for node in source.statements if set(_defines(node)) & wanted[each]]
        blocks += [source.segment(node) for node in kept]
    head = f'"""{_source(stem).about}"""\n\n{LICENCE.format(name=cls.__name__)}\n'
    lines = [f"import {name}" for name in sorted(imports.pop("", ()))]
    lines += [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(imports.items())]
    return head + "\n".join(lines) + "\n\n\n" + "\n\n\n".join(blocks) + "\n"


def _check_names(wanted: dict[str, set[str]]) -> None:
    """Raise where two files define one name, of which one would be lost."""
    places: dict[str, str] = {}
    for stem, names in wanted.items():
        for name in names:
            assert places.setdefault(name, stem) == stem, f"{name} is defined in {places[name]} and in {stem}"
