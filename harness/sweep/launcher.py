"""Hydra's launcher for `-m`: one run after another here, side by side on this machine, or in SLURM's queue.

`launcher=serial`, `local` or `slurm`; the keys of each are the keywords of what runs it.
"""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.utils import JobReturn, configure_log, run_job, setup_globals
from hydra.plugins import launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from conventions.keywords import bind, construct
from conventions.sentence import nearest
from harness.command_line import composed
from harness.config import config_hash, parse, run_dir
from harness.sweep.jobs import Job, refuse_shared_folders
from harness.sweep.local import LocalQueue
from harness.sweep.slurm import SlurmArray

ENGINES: dict[str, type[LocalQueue] | type[SlurmArray]] = {"local": LocalQueue, "slurm": SlurmArray}
# These overrides are for the sweep, and not for its jobs, each of which is a run of its own.
OF_THE_SWEEP = ("launcher=", "launcher.", "hydra.mode=", "hydra.sweep.", "hydra.sweeper.", "hydra/sweeper=")


def runs_at_once(overrides: Sequence[str], device: str) -> int | None:
    """Return how many runs the launcher of these overrides has going on this machine; None: they go on elsewhere."""
    section = composed(overrides)["launcher"]
    name = section.pop("name", None)
    return ENGINES[name].at_once(device, **section) if name in ENGINES else 1


class Launcher(launcher.Launcher):
    """Finds out which run each job will be, refuses what cannot work, and hands the jobs to the engine."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        config = self.config
        section = cast(dict[str, Any], OmegaConf.to_container(config.launcher, resolve=True))
        name = section.pop("name", None)
        jobs = self._jobs(job_overrides, initial_job_idx)
        refuse_shared_folders(jobs)
        if name == "serial":
            bind(lambda: None, section, "launcher")  # it has no keys
            return self._one_by_one(job_overrides, initial_job_idx)
        if name not in ENGINES:
            raise ValueError(f"launcher.name={name} is none: {nearest(str(name), ['serial', *ENGINES])}")
        engine = construct(ENGINES[name], section, "launcher", jobs, str(config.device))
        heeded = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]  # nohup
        before = {number: signal.signal(number, _interrupt) for number in heeded}
        try:
            engine.run()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return []

    def _one_by_one(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        """Run the jobs in this process, each under the number by which it is recorded."""
        setup_globals()
        ended = []
        for number, overrides in enumerate(job_overrides, first):
            config = self._composed(overrides)
            with read_write(config), open_dict(config):
                config.hydra.job.id, config.hydra.job.num = str(number), number
            keys = {"job_dir_key": "hydra.sweep.dir", "job_subdir_key": "hydra.sweep.subdir"}
            ended.append(
                run_job(self.task_function, config, hydra_context=self.hydra_context, configure_logging=True, **keys)
            )
            configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)  # the job had its own
        return ended

    def _composed(self, overrides: Sequence[str]) -> DictConfig:
        return self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))

    def _jobs(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[Job]:
        config = self.config
        of_all = [*_flags(config), *(str(o) for o in config.hydra.overrides.hydra)]
        common = set.intersection(*map(set, job_overrides))
        jobs = []
        for number, overrides in enumerate(job_overrides, first):
            own = [o for o in [*of_all, *overrides] if not o.lstrip("+").startswith(OF_THE_SWEEP)]
            run, different = self._run_folder(overrides), [o.lstrip("+") for o in overrides if o not in common]
            label = f"{number}: {' '.join(different) or (run.name if run else 'the only one')}"
            jobs.append(Job(Path(config.hydra.sweep.dir), number, own, run, label))
        return jobs

    def _run_folder(self, overrides: Sequence[str]) -> Path | None:
        """Return the folder that a job will write; None where its config is wrong, which the job will say."""
        try:
            config = self._composed(overrides)
            with read_write(config), open_dict(config):
                del config["hydra"]
            values = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
            cfg = parse(values)
            return run_dir(cfg, config_hash(values))
        except (ValueError, OmegaConfBaseException):
            return None


def _flags(config: DictConfig) -> list[str]:
    """Return the flags that each job needs, to find the configs that the sweep finds."""
    sources = config.hydra.runtime.config_sources
    own = [f"--config-dir={Path(each.path).resolve()}" for each in sources if each.provider == "command-line"]
    name = config.hydra.job.config_name
    return own if name in (None, "train") else [*own, f"--config-name={name}"]


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
