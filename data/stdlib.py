"""Makes the embedded corpus: the source text of Python's own standard library. No download, ready in a second.

About 8.4 MB of code and the English in its docstrings. A byte is a token and NUL ends a file. One file in
twenty, chosen by a hash of its path, is held out. The text is that of the Python that runs: 3.11.2 and 3.11.7
differ by a few lines and have different fingerprints, and their runs are not compared.
"""

import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.files import stamp
from data.prepare import DIR
from data.text import Document, Passage, Text, fraction

# Distributions differ in these: Debian packages them apart, newer Pythons dropped some. `encodings` is 1.4 MB of
# generated tables, alike to a byte: a model would be judged by how well it copies a table.
LEFT_OUT = {
    "distutils",
    "encodings",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "tkinter",
    "turtle",
    "turtledemo",
    "venv",
}
# Debian packages tests apart too, and some hold, on purpose, text that is no Python.
SKIPPED = {"test", "tests", "__pycache__"}
HELD_OUT = 0.05


def stdlib(tokenizer: str = "bytes", dir: str = DIR) -> Text:
    """Read the standard library's source. tokenizer: `bytes`, or an encoding of tiktoken's.

    Raises FileNotFoundError where this Python has no source files.
    """
    root = Path(sysconfig.get_path("stdlib"))
    files = source_files(root)
    if not files:
        raise FileNotFoundError(
            f"{root} holds no source of Python's standard library (a zipped or stripped Python); "
            "take data=local with files of your own"
        )

    def documents(after: Any) -> Iterator[Document]:
        first = 0 if after is None else after
        for number, file in enumerate(files[first:], first + 1):
            text = (root / file).read_text(encoding="utf-8", errors="replace")
            held_out = fraction(f"val/{file.as_posix()}") < HELD_OUT
            yield Document(Passage(text, number, number / len(files), ends=True), held_out)

    identity = {"tokenizer": tokenizer, "python": sys.version, "files": stamp(root / file for file in files)}
    return Text(dir=dir, identity=identity, tokenizer=tokenizer, documents=documents)


def source_files(root: Path) -> list[Path]:
    """Return the source files, relative to root, in an order that only their names decide."""
    names = sys.stdlib_module_names - LEFT_OUT
    tops = (path for path in root.iterdir() if path.name.removesuffix(".py") in names)
    files = (path for top in tops for path in (top.rglob("*.py") if top.is_dir() else [top]))
    kept = (path.relative_to(root) for path in files if path.suffix == ".py")
    return sorted((path for path in kept if not SKIPPED.intersection(path.parts)), key=Path.as_posix)
