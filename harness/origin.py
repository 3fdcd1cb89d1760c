"""The origin of a run: the command, the commit and the versions, as its manifest has them."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

VERSIONED = (
    "torch",
    "numpy",
    "transformers",
    "datasets",
    "tiktoken",
    "hydra-core",
    "wandb",
    "pytorch_optimizer",
)


def command() -> list[str]:
    """Return sys.argv as if typed in the repository: where that lies on this machine is of use to nobody else."""
    root = f"{Path(__file__).resolve().parents[1]}/"
    return [word.replace(root, "") for word in sys.argv]


def git_state() -> dict[str, Any]:
    """Return the commit and whether the work tree differs from it; without a repository HALFSTEP_COMMIT, and null.

    What lies in results/ changes no run: a program may be writing there just then. Nor do files that git does not know,
    such as a page that scripts.report wrote into the checkout.
    """
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "..", ":(exclude)../results")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": os.environ.get("HALFSTEP_COMMIT") or None, "dirty": None}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide what a run computes, those that are installed."""
    known = {"python": platform.python_version()}
    for package in VERSIONED:
        try:
            known[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return known
