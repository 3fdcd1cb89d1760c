"""One trial of tests/fuzz.py: a folder of its own, what may come of bad input, and values with something changed."""

import contextlib
import copy
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from conventions.sentence import sentence as one_line
from tests.test_data_fuzz import JSON, TEXT

EXTREME = st.sampled_from([0, -1, 1, 10**400, 2**63, 1e308, -1e-320, float("nan"), float("inf"), "", "../x", "a\0b",
                           "NaN", "1e3", True, None, [], {}, [[]], {"": {}}, "x" * 5000])  # fmt: skip
VALUE = EXTREME.map(copy.deepcopy) | JSON | st.integers(-5, 5000) | st.floats()


@contextlib.contextmanager
def alone() -> Iterator[Path]:
    """A folder of its own as the current one, which must keep all that is written."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name, "home")
        (home / "current").mkdir(parents=True)
        os.chdir(home / "current")
        try:
            yield home / "current"
            assert [path.name for path in home.iterdir()] == ["current"]
            assert [path.name for path in Path(name).iterdir()] == ["home"]
        finally:
            os.chdir(before)


def refused(work: Callable[[], Any]) -> bool:
    """Whether bad input was refused in one sentence; any other exception goes on."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
            work()
        return False
    except SystemExit as ended:
        assert ended.code == 2  # noqa: PT017
        sentence = printed.getvalue().strip()
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sentence = one_line(error)
    assert sentence
    assert len(sentence.splitlines()) == 1, sentence
    return True


@st.composite
def changed(draw: Any, whole: Any) -> Any:
    """Nested keys and lists with up to three places that hold something else, are gone, or have another name."""
    value = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        place = value
        while isinstance(place, (dict, list)) and place:
            key = draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
            inner = place[key]
            if isinstance(inner, (dict, list)) and inner and draw(st.integers(0, 3)):
                place = inner
                continue
            way = draw(st.integers(0, 5))
            if way == 0:
                del place[key]
            elif way == 1 and isinstance(place, dict):
                place[draw(TEXT)] = place.pop(key)
            else:
                place[key] = draw(VALUE)
            break
    return value
