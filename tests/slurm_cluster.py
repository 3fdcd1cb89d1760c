"""A SLURM of two nodes, both this machine, in a folder of its own, for as long as a `with` lasts.

It needs no systemd and touches nothing in /etc.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from getpass import getuser
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
CONFIG = """
ClusterName=halfstep
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1,sched_interval=5,bf_interval=5
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
MpiDefault=none
ReturnToService=2
SwitchType=switch/none
KillWait=5
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs={cpus} State=UNKNOWN
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """The programs that are not there."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start it; the environment in which SLURM's commands find it. Whatever happens, nothing of it is left running."""
    folder.chmod(0o755)  # munged insists
    for name in ("state", "spool.one", "spool.two"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    config = folder / "slurm.conf"
    port, first, second = free_ports(3)
    host, user = socket.gethostname().split(".")[0], getuser()
    names = {"folder": folder, "host": host, "user": user, "port": port, "first": first, "second": second}
    config.write_text(CONFIG.format(cpus=os.cpu_count(), **names))
    environment = {**os.environ, "SLURM_CONF": str(config), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    daemons: list[subprocess.Popen[bytes]] = []

    def start(*line: str) -> None:
        with open(folder / "daemons.log", "ab") as log:
            daemons.append(
                subprocess.Popen(line, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                 start_new_session=True)
            )  # fmt: skip

    try:
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        places = [f"--{what}={folder / f'munge.{end}'}" for what, end in files.items()]
        start("munged", "--foreground", "--force", *places)
        wait_until(lambda: (folder / "munge.socket").exists(), folder)
        start("slurmctld", "-D", "-f", str(config))
        for node in ("one", "two"):
            start("slurmd", "-D", "-f", str(config), "-N", node)
        wait_until(lambda: ask(environment, "sinfo", "--noheader", "--format=%D %t").split() == ["2", "idle"], folder)
        yield environment
    finally:
        ask(environment, "scancel", "--user", user)
        wait_until(lambda: not ask(environment, "squeue", "--noheader"), folder, seconds=20, must=False)
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(daemon.pid, signal.SIGKILL)
                daemon.wait()


def ask(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout


def wait_until(condition, folder: Path, seconds: float = 60, must: bool = True) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            if not must:
                return
            logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in folder.glob("*.log"))
            raise TimeoutError(f"SLURM did not come up in {seconds:.0f} s:\n{logs}")
        time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on just now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
