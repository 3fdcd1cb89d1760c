"""The words of a command line as Hydra wants them: flags first, and in quotes what it would misread."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from conventions.paths import expanded
from conventions.sentence import Arguments
from conventions.yaml_file import parse_yaml
from harness.config import LOCATIONS

# A section whose keys are the keywords of an optimizer takes any key here: the signature check names the wrong ones.
# So do the options of sbatch, which SLURM checks.
OPEN_SECTION = re.compile(r"^(optimizer\.[^=]+=|launcher\.sbatch[^=]*=)")
# The values of these keys are text, whatever they look like: study=2024_01_15 is no number.
TEXT = ("study", "run_dir", "device", *LOCATIONS, "data.column", "tracker.project", "tracker.entity",
        "tracker.group", "launcher.partition", "launcher.account")  # fmt: skip
CONFIG_DIR = "--config-dir"
OF_TUNING = re.compile(r"(trials|range\.[^=]+)=(.*)")  # the keys of scripts.tune that are not train.py's
# Hydra's flags, beside those with choices: see _Flags.
SWITCHES = [("--multirun", "-m"), ("--run", "-r"), ("--resolve",), ("--shell-completion", "-sc"), ("--hydra-help",),
            ("--version",)]  # fmt: skip
VALUED = [("--config-dir", "-cd"), ("--config-name", "-cn"), ("--config-path", "-cp"), ("--package", "-p"),
          ("--experimental-rerun",)]  # fmt: skip


class _Flags(Arguments):
    """A parser of Hydra's flags that runs before Hydra's own, which would answer a wrong one with its usage."""

    remedy = "keys are given as key=value, and --help lists them"

    def __init__(self) -> None:
        super().__init__(add_help=False)
        self.add_argument("overrides", nargs="*")
        for names in SWITCHES:
            self.add_argument(*names, action="store_true")
        for names in VALUED:
            self.add_argument(*names)
        self.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
        self.add_argument("--info", "-i", nargs="?")


def flags_first(words: Sequence[str]) -> list[str]:
    """Sort the words of a command line as Hydra wants them: first the flags, then the overrides in one piece."""
    parsed = _Flags().parse_intermixed_args(words)
    own, words = own_configs(words)
    waiting = list(parsed.overrides)
    flags = [word for word in words if not (waiting and word == waiting[0] and waiting.pop(0))]
    return [*own, *flags, *readable(parsed.overrides, sweep=parsed.multirun)]


def own_configs(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the words of a command line: the flag of the user's own folder of configs as one word, and the others.

    Raises ValueError where the folder is not there.
    """
    parser = Arguments(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd")
    options, rest = parser.parse_known_args(words)
    if options.config_dir is None:
        return [], rest
    folder = expanded(options.config_dir, CONFIG_DIR).resolve()
    if not folder.is_dir():
        raise ValueError(f"{CONFIG_DIR}={options.config_dir} is no folder: give one that holds optimizer/, say")
    return [f"{CONFIG_DIR}={folder}"], rest


def search_path(folder: Path | str) -> str:
    """Return the override with which Hydra looks for options in a folder, too."""
    return f"hydra.searchpath=[{json.dumps(f'file://{Path(folder).resolve()}')}]"


def read_value(text: str, hint: Any) -> Any:
    """Read what is written after the `=`, as Hydra's grammar has it. What its grammar does not take is text.

    A key that takes text takes `2024_01_15`, too, as it is written.
    """
    try:
        override = OverridesParser.create().parse_override(f"key={text}")
        read = text if override.is_sweep_override() else override.value()
    except HydraException:
        return text
    number = isinstance(read, int | float) and (hint is str or str in get_args(hint))
    return text if number else read


def split_tuning(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Split a tuning's words: its own keys, {"trials": int or None, "ranges": {key: [low, high]}}, and train.py's."""
    own: dict[str, Any] = {"trials": None, "ranges": {}}
    rest = []
    for argument in arguments:
        match = OF_TUNING.fullmatch(argument.lstrip("+"))
        if not match:
            rest.append(argument)
            continue
        try:
            value = parse_yaml(match[2], argument)
        except ValueError:
            value = match[2]
        if match[1] == "trials":
            if type(value) is not int:
                raise ValueError(f"trials must be a whole number, not {match[2]!r}")
            own["trials"] = value
        else:
            own["ranges"][match[1].removeprefix("range.")] = value
    return own, rest


def readable(overrides: Sequence[str], sweep: bool = False) -> list[str]:
    """Write overrides so that Hydra reads them as they were meant: names as text, and paths that its grammar refuses.

    Args:
        sweep: whether commas separate the values to try.
    """
    return [_readable(OPEN_SECTION.sub(r"++\1", override), sweep) for override in overrides]


def _readable(override: str, sweep: bool) -> str:
    key, equals, value = override.partition("=")
    if equals and not key.strip("+~ "):
        raise ValueError(f"cannot read {override!r}: keys are given as key=value")
    if not equals or re.search(r"^$|^null$|^['\"\[{]|^\w+\(.*\)$", value):
        return override
    if key.lstrip("+") in TEXT:
        value = re.sub(r"\$\{([A-Z_][A-Z0-9_]*)\}", r"$\1", value)  # the shell's; Hydra's own refer to keys
        # A backslash is Hydra's own: a sweep hands its jobs $\{seed\} for ${seed}, and a\ b for a path with a space.
        if "${" in value or "\\" in value or ("," in value and not sweep):
            return override
        return f"{key}={','.join(map(_quoted, value.split(',')))}"
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        if not re.search(r"[\[\]{}()=,'\"]", value):
            return f"{key}={_quoted(value)}"
    return override


def _quoted(text: str) -> str:
    """Put text into the quotes of Hydra's grammar, in which only a quote, and backslashes before one, are special."""
    escaped = re.sub(r"(\\*)'", lambda match: 2 * match[1] + r"\'", text)
    escaped = re.sub(r"(\\+)$", lambda match: 2 * match[1], escaped)
    return f"'{escaped}'"
