"""The command line of train.py: Hydra composes the config; errors come out in one sentence; --help lists the keys."""

import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conventions.config_keys import CONFIGS
from conventions.paths import forget_empty
from conventions.sentence import BAD_INPUT, complain, nearest, on_first_rank, say, sentence
from conventions.yaml_file import read_yaml
from harness.sweep import jobs
from harness.words import flags_first, own_configs, readable, search_path

EXPECTED = (*BAD_INPUT, HydraException, OmegaConfBaseException)


def by_model(values: DictConfig, default: Any = None, *, _root_: DictConfig) -> Any:
    """Resolve ${by_model:{name:value,...},default} in a recipe to the value for the model of the run."""
    name = _root_.model.name
    if name not in values and default is None:
        raise ValueError(f"it has values for {', '.join(values)} and none for {name}: give one, or another model")
    return values.get(name, default)


OmegaConf.register_new_resolver("by_model", by_model, replace=True)
OmegaConf.register_new_resolver(
    "sweep_folder", jobs.sweep_folder, use_cache=True, replace=True
)  # one for a whole sweep


def answer_help(about: str | None) -> None:
    """Print the help and leave, if that is what the command line asks for."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        with suppress(BrokenPipeError):  # into `head`, say
            print(help_text(about or "", sys.argv[1:]), flush=True)
            raise SystemExit(0)
        os._exit(0)  # the interpreter would complain of the pipe once more


def command(program: Callable[[dict[str, Any]], str]) -> Callable[[], None]:
    """Make a command of a program that takes a composed config and returns its run's status.

    `python train.py key=value ...` runs it once; `-m` sweeps over comma-separated values, where a job that
    fails is recorded and the sweep goes on. Exit code 2 says that something in the command or its input was wrong.
    """

    def run() -> None:
        begun = False

        def job(composed: DictConfig) -> None:
            nonlocal begun
            begun = True
            _job(program, composed)

        forget_empty(*(name for name in os.environ if name.startswith(("WANDB_", "HALFSTEP_"))))
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then hands its errors on instead of printing them
        try:
            sys.argv[1:] = flags_first(sys.argv[1:])
            hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")(job)()
        except KeyboardInterrupt:
            print(
                "\nhalfstep: interrupted; the same command with resume=true goes on from the last checkpoint",
                file=sys.stderr,
            )
            raise SystemExit(130) from None
        except EXPECTED as error:
            if _shows_tracebacks():
                raise
            complain(explain(error))
        except Exception as error:
            if begun or _shows_tracebacks():
                raise
            complain(_unread(error))
        if jobs.Outcome.failed:
            raise SystemExit(2)

    return run


def composed(arguments: Sequence[str]) -> dict[str, Any]:
    """Compose the config that train.py would run with these arguments; a ValueError says what is wrong.

    arguments: key=value, and --config-dir=DIR.
    """
    flags, overrides = own_configs(arguments)
    opened = [*readable(overrides), *(search_path(flag.partition("=")[2]) for flag in flags)]
    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            values = OmegaConf.to_container(hydra.compose("train", opened), resolve=True, throw_on_missing=True)
    except EXPECTED as error:
        raise ValueError(explain(error)) from None
    except Exception as error:
        raise ValueError(_unread(error)) from error
    return cast(dict[str, Any], values)


def _job(program: Callable[[dict[str, Any]], str], composed: DictConfig) -> None:
    hydra_config = HydraConfig.get()
    launcher, one = hydra_config.runtime.choices["launcher"], hydra_config.mode is not RunMode.MULTIRUN

    def record(status: str, error: str | None = None) -> None:
        job = hydra_config.job
        if not one and on_first_rank():
            jobs.Job(Path(hydra_config.sweep.dir), job.num, list(hydra_config.overrides.task)).record(status, error)

    try:
        if one and launcher != "serial":
            raise ValueError(f"launcher={launcher} launches sweeps: add -m")
        values = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True, throw_on_missing=True))
        record(program(values))
    except Exception as error:
        expected = isinstance(error, EXPECTED)
        if one and expected and not _shows_tracebacks():
            complain(explain(error))  # here, and not by Hydra, which would say more than one sentence
        if one:
            raise
        if not expected:
            traceback.print_exc()
        record("failed", explain(error))
        failed = f"job {hydra_config.job.num} failed: {explain(error)}"
        if os.environ.get("WORLD_SIZE", "1") != "1":
            complain(failed)  # the other ranks may be waiting for this one in the middle of the job
        say(failed)


def _shows_tracebacks() -> bool:
    return os.environ.get("HALFSTEP_TRACEBACK") == "1"


def explain(error: BaseException) -> str:
    """Put an error of Hydra or OmegaConf into one sentence, with the nearest valid name."""
    text = str(error)
    if match := re.search(r"Could not override '([^']+)'", text):
        return _unknown(match[1])
    if match := re.search(r"Could not find '([^'/]+)/([^']+)'", text):
        group, option = match[1], match[2]
        if group == "hydra":  # its own groups: launchers and sweepers that are packages
            key = "=".join(f"hydra/{option}".rsplit("/", 1))
            return (
                f"{key} is not there: launcher=serial, local and slurm are this program's launchers; another sweeper "
                "needs its package (hydra-optuna-sweeper, say), and scripts.tune needs none"
            )
        return f"{group}={option} is not there: {nearest(option, _options(CONFIGS / group))}"
    if match := re.search(r"Could not override '?([\w./]+)'?\. No match in the defaults list", text):
        return f"{match[1]} is no group of the config: {nearest(match[1], _groups())}"
    if "Missing mandatory value" in text and (match := re.search(r"full_key: (\S+)", text)):
        return f"{match[1]} is missing: give {match[1]}=<value>"
    if match := re.search(r"while resolving interpolation: (.*)\n\s*full_key: (\S+)", text):
        return match[1] if match[2].startswith("hydra.") else f"{match[2]}: {match[1]}"
    if match := re.search(r"Interpolation key '([^']+)' not found", text):
        variable = f"; the environment variable is written ${match[1]}" if match[1].isupper() else ""
        return f"the config refers to {match[1]}, which is not there{variable}"
    if "interval" in text.lower() and "sweep" in text.lower():
        return (
            "interval(...) has no list of values to try: python -m scripts.tune tries values in ranges, as does "
            "hydra/sweeper=optuna where hydra-optuna-sweeper is installed"
        )
    if match := re.search(r"Ambiguous value for argument '\+*([^']+)'", text):
        return f"{match[1]} has several values: add -m to try each, or put brackets around a list"
    if "Config group override must be" in text:
        groups = " ".join(argument for argument in sys.argv[1:] if argument.partition("=")[0] in ("", *_groups()))
        return f"cannot read {groups}: a group takes the name of one of its options, which --help lists"
    if isinstance(error, OverrideParseException):
        override = error.override.lstrip("+")
        return f"cannot read {override!r}: keys are given as key=value; quote a value that holds = , [ ] or spaces"
    if isinstance(error, BAD_INPUT):
        return sentence(error)
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)


def _unread(error: Exception) -> str:
    """Say that Hydra itself failed, as it does on some overrides that it does not foresee: `+@=a`, say."""
    text = str(error).partition("\n")[0] or type(error).__name__
    return f"Hydra cannot read the command line ({text}): keys are given as key=value, and --help lists them"


def _unknown(key: str) -> str:
    """Say that a key is not there: which options of its group have it, or which names are nearest."""
    group, options = key.partition(".")[0], {}
    if group in _groups() and group != "experiment":
        options = {option: _keys_of(group, option) for option in _options(CONFIGS / group)}
    chosen = _chosen(group)
    if owners := [option for option, keys in options.items() if key in keys]:
        name = key.partition(".")[2]
        # First those that cannot do without it: of the many that can, none may be meant.
        owners.sort(key=lambda option: f"\n{name}: ???" not in (CONFIGS / group / f"{option}.yaml").read_text())
        theirs = " or ".join(f"{group}={option}" for option in owners[:3])
        return f"{key} is no key of {group}={chosen}: it belongs to {theirs}"
    return f"{key} is no key of the config: {nearest(key, _keys(), (name for name in _keys() if '.' not in name))}"


def help_text(about: str, arguments: list[str]) -> str:
    """Return the program's own words, every key with its comment, and the options of each group."""
    chosen = [
        a
        for a in arguments
        if re.fullmatch(r"\w+=[\w/]+", a) and (CONFIGS / a.replace("=", "/")).with_suffix(".yaml").is_file()
    ]
    keys = (CONFIGS / "train.yaml").read_text(encoding="utf-8")
    keys = keys[keys.index("\nsteps:") : keys.index("\nhydra:")].strip()
    parts = [
        about.strip(),
        f"Keys, their defaults and units (give any as key=value; a.b=value inside a block):\n\n{keys}",
    ]
    groups = [f"  {group:<11}{', '.join(_options(CONFIGS / group))}" for group in _groups()]
    parts.append("Groups (give group=option; group=option --help shows that option's keys):\n\n" + "\n".join(groups))
    for choice in chosen:
        for name in _with_bases(*choice.split("=", 1)):
            text = (CONFIGS / name.replace("=", "/")).with_suffix(".yaml").read_text(encoding="utf-8")
            parts.append(f"{name}:\n\n{text.strip()}")
    parts.append("Sweeps: -m key=a,b,c. The composed config without running it: --cfg job.")
    return "\n\n".join(parts)


def _groups() -> list[str]:
    others = ("claim", "public")  # scripts.claims' and scripts.public's
    return sorted(path.name for path in CONFIGS.iterdir() if path.is_dir() and path.name not in others)


def _options(group: Path) -> list[str]:
    return sorted(path.relative_to(group).with_suffix("").as_posix() for path in group.rglob("*.yaml"))


def _chosen(group: str) -> str | None:
    """Return the option of a group that the command line chooses, or else the default."""
    for argument in reversed(sys.argv[1:]):
        if argument.startswith(f"{group}="):
            return argument.partition("=")[2]
    defaults = read_yaml(CONFIGS / "train.yaml")["defaults"]
    return next((entry[group] for entry in defaults if isinstance(entry, dict) and group in entry), None)


def _keys() -> list[str]:
    """List every group, and every dotted key of the config with the chosen options."""
    values = read_yaml(CONFIGS / "train.yaml")
    keys = _dotted({key: value for key, value in values.items() if key not in ("defaults", "hydra")})
    for group in _groups():
        keys += _keys_of(group, _chosen(group))
    return sorted({*keys, *_groups()})


def _keys_of(group: str, option: str | None) -> list[str]:
    if group == "experiment" or not (CONFIGS / group / f"{option}.yaml").is_file():
        return []
    values: dict[str, Any] = {}
    for name in _with_bases(group, str(option)):
        values = {**read_yaml((CONFIGS / name.replace("=", "/")).with_suffix(".yaml")), **values}
    return _dotted({key: value for key, value in values.items() if key != "defaults"}, f"{group}.")


def _with_bases(group: str, option: str) -> list[str]:
    """List `group=option`, and after it the options of the same group that its file says to begin with."""
    bases = [] if group == "experiment" else read_yaml(CONFIGS / group / f"{option}.yaml").get("defaults", [])
    named = [base for base in bases if isinstance(base, str) and base != "_self_"]
    return [f"{group}={option}", *(name for base in named for name in _with_bases(group, base))]


def _dotted(node: dict[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for key, value in node.items():
        keys += [f"{prefix}{key}", *(_dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else [])]
    return keys
