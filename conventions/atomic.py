"""Text files that appear whole or not at all: who reads them, or cuts us off, may do so at any moment."""

from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a file and make its folder. Bytes of a path that are no UTF-8 become escapes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".new-{path.name}")
    draft.write_text(text, encoding="utf-8", errors="backslashreplace")
    draft.replace(path)
