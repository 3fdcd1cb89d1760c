"""Builds a saved workspace in W&B for a study whose runs were mirrored there with tracker=wandb.

    python -m scripts.dashboard results/runs/my_study                 # in the project halfstep, of your account
    python -m scripts.dashboard results/runs/my_study --entity my_team --project gpt2
    python -m scripts.dashboard results/runs/my_study --update "https://wandb.ai/my_team/gpt2?nw=a1b2c3d4e5f"
    python -m scripts.dashboard results/runs/my_study --print         # its JSON; nothing is sent

Expect the address of a page with validation loss against updates, tokens, FLOPs and seconds, learning rates, overhead,
and win rates with the verdicts of the run folders. Lines are means over seeds, with their range. Besides
requirements.txt it takes wandb-workspaces, and `wandb login` once.
"""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from conventions.paths import path_argument
from conventions.sentence import Arguments, one_sentence
from harness.wandb_tracker import FAILURES
from judge.answer import study_of
from judge.comparison import Comparison, compare
from judge.records import find_runs
from judge.tuning.trials import tuning_of, with_tuning

PATIENCE = 10.0  # seconds for W&B's server to answer at all


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Arguments.of("scripts.dashboard", __doc__)
    parser.add_argument("folder", type=path_argument, help="folder with the study's runs anywhere below it")
    parser.add_argument("--baseline", default="adamw", help="what the others are held against (default: adamw)")
    parser.add_argument("--project", default=os.environ.get("WANDB_PROJECT", "halfstep"), help="default: halfstep")
    parser.add_argument("--entity", help="account or team (default: your own)")
    parser.add_argument("--update", metavar="URL", help="a saved workspace to change, instead of a new one")
    parser.add_argument("--print", action="store_true", dest="dry", help="print the workspace as JSON; send nothing")
    options = parser.parse_args(arguments)
    with one_sentence():
        tunings = tuning_of(options.folder.resolve())
        comparison = with_tuning(compare(find_runs(options.folder), options.baseline), tunings)
        if options.dry:
            print(written(comparison, options.entity or "", options.project))
        else:
            print(save(comparison, options.entity, options.project, options.update))


def written(comparison: Comparison, entity: str, project: str) -> str:
    """Return the workspace as W&B keeps it."""
    view = _workspace(comparison, entity, project)._to_model()
    return json.dumps(json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True)), indent=1)


def save(comparison: Comparison, entity: str | None, project: str, address: str | None = None) -> str:
    """Save a workspace in W&B, as a new one or over that at `address`; return its address.

    Raises ConnectionError where W&B does not take it, and ModuleNotFoundError without wandb-workspaces.
    """
    _need()
    import wandb
    import wandb_workspaces.workspaces as workspaces

    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        if not wandb.login(prompt=False, verify=False):
            raise ConnectionError("there is no API key: `wandb login` asks for it")
        _reach(wandb.setup().settings.base_url)
        new = _workspace(comparison, entity or wandb.Api().default_entity or "", project)
        if address:
            old = workspaces.Workspace.from_url(address)
            old.sections, old.settings, old.runset_settings = new.sections, new.settings, new.runset_settings
            new = old
        return new.save().url
    except FAILURES as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConnectionError(f"W&B did not take the workspace ({reason}): --print shows it without W&B") from None


def _reach(address: str) -> None:
    """Raise URLError where no server answers at all, which the client would find out only after 20 seconds."""
    with suppress(HTTPError):  # an answer
        urlopen(address, timeout=PATIENCE).close()


def _workspace(comparison: Comparison, entity: str, project: str) -> Any:
    _need()
    from scripts.pages.workspace import build

    return build(comparison, study_of(comparison), entity, project)


def _need() -> None:
    try:
        import wandb_workspaces  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"scripts.dashboard needs {error.name}: pip install -c constraints.txt wandb-workspaces"
        ) from None


if __name__ == "__main__":
    main()
