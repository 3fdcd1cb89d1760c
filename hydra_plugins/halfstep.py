"""Hydra finds launchers here, and takes none from anywhere else: the name of this folder is its own choice."""

from harness.sweep import launcher


class SweepLauncher(launcher.Launcher):
    """The launcher of `-m`, as configs/launcher/ configures it."""
