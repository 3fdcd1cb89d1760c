"""`launcher=slurm` on a real SLURM, which is started here and taken down again: make test-slurm.

    python -m tests.slurm

An array of five runs: one killed, one requeued, one told that its time is up, one killed along with its guard, one left
alone. Then one run on two nodes, a rank of which is killed. Each has to end with the rows that the same run has without
SLURM.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conventions.sentence import complain
from tests.command import ROOT, TIMED, environment, manifest, rows
from tests.slurm_cluster import ask, cluster, missing

STEPS = 200
RUN = ("model=gpt2_pico", f"steps={STEPS}", "batch.tokens=512", "eval.tokens=512", "eval.every=40", "log.every=5",
       "checkpoint.every=20")  # fmt: skip
SLURM = ("launcher=slurm", "launcher.gpus=0", "launcher.cpus=1", "launcher.timeout_min=10")
SEEDS = 5


def main() -> None:
    if absent := missing():
        complain(f"there is no {', '.join(absent)} here: apt-get install slurm-wlm munge")
    began = time.monotonic()
    here = Path(tempfile.mkdtemp(prefix="halfstep-slurm-"))
    try:
        with_slurm(here)
    except BaseException:
        print(f"the runs, and the logs of SLURM and of every job, are in {here}", file=sys.stderr)
        raise
    shutil.rmtree(here)
    print(f"passed in {time.monotonic() - began:.0f} s")


def with_slurm(here: Path) -> None:
    for name in ("slurm", "data"):
        (here / name).mkdir()
    data = environment(HALFSTEP_DATA=str(here / "data"))
    seeds = f"seed={','.join(map(str, range(SEEDS)))}"
    print("the same runs without SLURM")
    check(sweep(here, data, "-m", "launcher=local", "study=local", seeds).wait(), 0, "exit code of the local sweep")
    with cluster(here / "slurm") as slurm:
        env = {**data, **{key: slurm[key] for key in ("SLURM_CONF", "PATH")}}
        print("five jobs in SLURM")
        waiting = sweep(here, env, "-m", *SLURM, "study=slurm", seeds)
        try:
            harms: dict[int, Callable[[int], None]] = {
                0: lambda seed: os.kill(trainer(here, seed), signal.SIGKILL),
                1: lambda seed: scontrol(slurm, "requeue", f"{array(slurm)}_{seed}"),
                2: lambda seed: signal_steps(slurm, f"{array(slurm)}_{seed}", "USR2"),
                3: lambda seed: os.kill(parent(trainer(here, seed)), signal.SIGKILL),
            }
            while harms:
                for seed in list(harms):
                    if not half_done(here, seed):
                        continue
                    harms.pop(seed)(seed)
                    print(f"harmed the run of seed {seed} at step {last_step(here, 'slurm', seed)}")
                check(waiting.poll(), None, "exit code of the sweep while its runs are being harmed")
                time.sleep(0.1)
            check(waiting.wait(300), 0, "exit code of the sweep")
        finally:
            waiting.kill()
        for seed in range(SEEDS):
            run, same = folder(here, "slurm", seed), folder(here, "local", seed)
            check(manifest(run)["status"], "finished", f"status of seed {seed}")
            check(len(manifest(run)["resumes"]), int(seed < 4), f"resumes of seed {seed}")
            check(compared(run), compared(same), f"rows of seed {seed}")
        print("one run on both nodes, a rank of which is killed")
        soap = ("optimizer=soap", f"steps={5 * STEPS}")
        two = (*SLURM, "launcher.nodes=2", *soap)
        waiting = sweep(here, env, "-m", *two, "study=nodes")
        try:
            wait_for(lambda: last_step(here, "nodes", 0) > 0.3 * STEPS, 120)
            os.kill(ranks_of("nodes")[-1], signal.SIGKILL)
            check(waiting.wait(300), 0, "exit code of the sweep")
        finally:
            waiting.kill()
        run = folder(here, "nodes", 0)
        check((manifest(run)["status"], manifest(run)["ranks"]), ("finished", 2), "status and ranks of the run")
        check(len(manifest(run)["resumes"]), 1, "resumes of the run on two nodes")
        check(compared(run), compared(torchrun(here, data, *soap)), "rows of the run on two nodes")
        print("one on both nodes that cannot work")
        check(sweep(here, env, "-m", *two, "study=wrong", "batch.tokens=384").wait(120), 2, "exit code of the sweep")
        (jobs,) = here.glob("results/runs/wrong/.sweeps/*/jobs.jsonl")
        check("do not divide over 2 ranks" in jobs.read_text(), True, "that it says why it fails")
        print("one more, without waiting")
        check(sweep(here, env, "-m", *SLURM, "launcher.wait=false", "study=later", "steps=20").wait(60), 0, "exit code")
        (jobs,) = wait_for(lambda: list(here.glob("results/runs/later/.sweeps/*/jobs.jsonl")))
        check('"status": "finished"' in jobs.read_text(), True, "that the job which nobody waited for has finished")


def sweep(here: Path, env: dict[str, str], *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(ROOT / "train.py"), *RUN, *arguments], cwd=here, env=env)


def torchrun(here: Path, env: dict[str, str], *arguments: str) -> Path:
    """A run of two ranks on this machine, without SLURM; its folder."""
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(ROOT / "train.py")]
    subprocess.run([*line, *RUN, "run_dir=one_machine", *arguments], cwd=here, env=env, check=True)
    return here / "one_machine"


def folder(here: Path, study: str, seed: int) -> Path:
    (result,) = here.glob(f"results/runs/{study}/*-s{seed}-*")
    return result


def compared(run: Path) -> list[dict]:
    ignored = (*TIMED, "memory/")
    return [{key: value for key, value in row.items() if not key.startswith(ignored)} for row in rows(run)]


def last_step(here: Path, study: str, seed: int) -> int:
    """Return the last step of the run in SLURM; 0 while there is none."""
    result = list(here.glob(f"results/runs/{study}/*-s{seed}-*/metrics.jsonl"))
    lines = result[0].read_text().count("\n") if result else 0
    return max(0, lines - 1) * 5


def half_done(here: Path, seed: int) -> bool:
    return 0.3 * STEPS < last_step(here, "slurm", seed) < 0.8 * STEPS


def trainer(here: Path, seed: int) -> int:
    """The process of a run in SLURM."""
    return processes({"study=slurm", f"seed={seed}"})[0]


def ranks_of(study: str) -> list[int]:
    """The ranks of the runs of a study; torchrun, which started them, is none."""
    return [each for each in processes({f"study={study}"}) if "RANK" in variables(each)]


def processes(words: set[str]) -> list[int]:
    """The processes of train.py with these arguments."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().decode().replace("'", "").split("\0")  # Hydra quotes some
        except (OSError, UnicodeDecodeError):
            continue
        if str(ROOT / "train.py") in line and words <= set(line):
            found.append(int(process.name))
    if not found:
        raise LookupError(f"there is no process with {words}")
    return sorted(found)


def variables(process: int) -> dict[str, str]:
    entries = Path(f"/proc/{process}/environ").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def array(slurm: dict[str, str]) -> str:
    """The number of the only array in the queue."""
    (number,) = set(ask(slurm, "squeue", "--noheader", "--format=%F").split())
    return number


def scontrol(slurm: dict[str, str], *arguments: str) -> None:
    subprocess.run(["scontrol", *arguments], env=slurm, check=True)


def signal_steps(slurm: dict[str, str], job: str, name: str) -> None:
    """What SLURM does some time before a time limit."""
    subprocess.run(["scancel", f"--signal={name}", job], env=slurm, check=True)


def wait_for(result: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not result() and time.monotonic() < end:
        time.sleep(0.2)
    return result()


def check(result: object, wanted: object, what: str) -> None:
    if result != wanted:
        raise AssertionError(f"{what} is {result}, not {wanted}")


if __name__ == "__main__":
    main()
