"""Cases of a parametrised test of which some are slow."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def slow_cases(names: Iterable[str], slow: Collection[str]) -> list[Any]:
    """Those in `slow` are marked so, for pytest.mark.parametrize."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in names]


def quick_cases(names: Collection[str], quick: Collection[str]) -> list[Any]:
    """All but those in `quick` are marked slow."""
    return slow_cases(names, {*names} - {*quick})
