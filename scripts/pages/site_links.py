"""MkDocs calls this hook for each page of docs/: a link that leaves docs/ becomes its text, which names the file.

In the repository such a link leads to the file. The site holds docs/ alone, and `mkdocs build --strict` refuses a link
that leads nowhere.
"""

import re
from typing import Any

LEAVING = re.compile(r"\[([^\]]+)\]\(\.\./[^)]+\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return a page's Markdown without the links that leave docs/."""
    return LEAVING.sub(r"`\1`", markdown)
