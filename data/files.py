"""Finds the files that paths, globs and folders stand for, and names those that are left out."""

import fnmatch
import glob
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from conventions.paths import expanded
from data import packed
from data.dataset import LOCK, PROGRESS, RECORD

JSON_LINES, PLAIN_TEXT, TABLE = (".jsonl", ".json", ".ndjson"), (".txt",), (".parquet",)
KINDS = f"{', '.join(JSON_LINES + PLAIN_TEXT)} (also with .gz, .bz2, .xz or .zst) or .parquet"
NAMED = 5  # of the files that are left out for one reason


def kind(path: Path) -> str | None:
    """Return the suffix of what a file holds, `.jsonl` say, compressed or not; None for what cannot be read."""
    compressed = path.suffix.lower() in packed.SUFFIXES
    suffix = Path(path.stem).suffix.lower() if compressed else path.suffix.lower()
    return suffix if suffix in JSON_LINES + PLAIN_TEXT or (suffix in TABLE and not compressed) else None


def expand(files: str | list[str], key: str, notes: list[str]) -> list[Path]:
    """Return the files that a path, a glob, a folder (with all that it holds) or a list of these stands for.

    A sentence is added to `notes` for what is there and is left out.
    Raises ValueError or FileNotFoundError, which name the key, where nothing can be read.
    """
    paths: list[Path] = []
    unread = LeftOut(key)
    for entry in [files] if isinstance(files, str) else files:
        if not entry:
            raise ValueError(f"{key} must not hold an empty path")
        path = expanded(entry, f"data.{key}")
        if path.is_dir():
            matches = [file for file in sorted(below(path)) if unread.keeps(file, path)]
        elif path.is_file():
            matches = [path]
        else:
            names = globbed(path)
            matches = [name for name in names if name.is_file()]
            unread.dead += [name for name in names if not name.exists()]
            inside = {parent for name in matches for parent in name.parents}
            unread.folders += [name for name in names if name.is_dir() and name not in inside]
        if not matches:
            raise FileNotFoundError(f"data.{key}: there is no file at {entry}{unread.instead()}")
        paths += [match.absolute() for match in matches]  # not resolved: a cache's links hide the suffix
    for path in paths:
        if not kind(path):
            raise ValueError(f"{key}: {path} is of no kind that can be read; bring {KINDS}")
    notes += unread.sentences()
    return once(paths, key, notes)


def once(paths: list[Path], key: str, notes: list[str]) -> list[Path]:
    """Return every path at its first place; a sentence is added to `notes` for each that is listed again."""
    counts = Counter(paths)
    notes += [f"data.{key}: {path} is listed {n} times and read once" for path, n in counts.items() if n > 1]
    return list(counts)


class LeftOut:
    """Collects what lies in the folders and globs of a key and is not read, by the reason."""

    def __init__(self, key: str):
        self.key = key
        self.others: list[Path] = []
        self.hidden: list[Path] = []
        self.dead: list[Path] = []
        self.folders: list[Path] = []
        self.empty: list[Path] = []

    def keeps(self, path: Path, folder: Path) -> bool:
        """Say whether a path below a folder is read; where it is not, remember it."""
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            self.hidden += [path] if kind(path) else []
        elif not path.exists():
            self.dead.append(path)
        elif not kind(path) or not path.is_file():
            self.others.append(path)
        else:
            self.empty += [] if path.stat().st_size else [path]
            return True
        return False

    def instead(self) -> str:
        """Name what is there where nothing can be read, for the end of a sentence."""
        return "".join(f"; {sentence.split(': ', 1)[1]}" for sentence in self.sentences())

    def sentences(self) -> list[str]:
        reasons = {
            f"not {KINDS}": self.others,
            "the name begins with a dot": self.hidden,
            "a link that leads nowhere": self.dead,
            "a folder, and the pattern takes no file in it": self.folders,
        }
        left_out = [f"data.{self.key}: left out {_names(paths)} ({why})" for why, paths in reasons.items() if paths]
        return left_out + ([f"data.{self.key}: there is nothing in {_names(self.empty)}"] if self.empty else [])


def refuse_shared(trained: Iterable[Path], held_out: Iterable[Path], key: str, held_out_key: str) -> None:
    """Raise ValueError where a file of the training text is also one of the validation text."""
    apart = {path.resolve() for path in held_out}
    for path in trained:
        if path.resolve() in apart:
            raise ValueError(
                f"{held_out_key}: {path} is also in {key}; a run must not be judged by what it is trained on"
            )


def _names(paths: list[Path]) -> str:
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return ", ".join(map(str, paths[:NAMED])) + more


def globbed(pattern: Path) -> list[Path]:
    """Return what a glob matches, in the order of the names. `**` matches files, and follows links as `below` does."""
    parts = pattern.parts
    if "**" not in parts:
        return [Path(name) for name in sorted(glob.glob(str(pattern)))]
    deep = parts.index("**")
    tops = [Path(name) for name in glob.glob(str(Path(*parts[:deep]))) if os.path.isdir(name)]
    files = {file for top in tops for file in below(top) if _fits(file.relative_to(top).parts, parts[deep:])}
    return sorted(files, key=str)


def _fits(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Say whether the parts of a path match those of a pattern; a name with a dot in front needs a dot there."""
    if not (parts and pattern):
        return not parts and set(pattern) <= {"**"}
    hidden = parts[0].startswith(".")
    if pattern[0] == "**":
        return _fits(parts, pattern[1:]) or (not hidden and _fits(parts[1:], pattern))
    shown = not hidden or pattern[0].startswith(".")
    return shown and fnmatch.fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def below(folder: Path) -> Iterator[Path]:
    """Yield every file below a folder, at any depth and through links to folders; each folder is visited once.

    Folders come before links to folders, so that a file is found under its own path rather than through a link.
    Raises OSError where a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        start, waiting = waiting[0], waiting[1:]
        for place, folders, files in os.walk(start, onerror=refuse):
            stat = os.stat(place)
            mark = (stat.st_dev, stat.st_ino)
            if mark in seen:
                folders.clear()
                continue
            seen.add(mark)
            if LOCK in files and (RECORD in files or PROGRESS in files):  # prepared by us: data.dir lies in here
                folders.clear()
                continue
            if not any(part.startswith(".") for part in Path(place).relative_to(folder).parts):
                waiting += [Path(place, name) for name in sorted(folders) if os.path.islink(Path(place, name))]
            yield from (Path(place, name) for name in files)


def stamp(paths: Iterable[Path]) -> str:
    """Hash the names, sizes and times of change of files: it is another where any file may have changed."""
    digest = hashlib.sha256()
    for path in paths:
        stat = path.stat()
        digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
