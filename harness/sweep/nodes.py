"""A run over several nodes: each node's guard starts its ranks, and hears from the others how theirs have ended."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

POLL = 0.2  # seconds between two looks for another node's word
LOST = "has lost the others"  # what a rank says that has not failed by itself
PORTS = (20000, 40000)  # of which the number of the job in SLURM takes one


@dataclass(frozen=True)
class Nodes:
    """The nodes of a run, as one of them sees them.

    Attributes:
        count: of all nodes.
        number: of this one, from 0.
        address: of node 0, where the ranks meet.
        port: of that meeting.
        folder: where each node leaves word of how its ranks have ended; all nodes see it.
        attempt: whose word it is, from 0.
    """

    count: int = 1
    number: int = 0
    address: str = "localhost"
    port: int = 0
    folder: Path = Path()
    attempt: int = 0

    @classmethod
    def of_slurm(cls, environment: Mapping[str, str], folder: Path) -> "Nodes":
        """Read what SLURM tells a step's task: srun ran on node 0, from whose address it started the others."""
        low, high = PORTS
        return cls(
            int(environment.get("SLURM_NNODES", "1")),
            int(environment.get("SLURM_NODEID", "0")),
            environment.get("SLURM_LAUNCH_NODE_IPADDR", "localhost"),
            low + int(environment["SLURM_JOB_ID"]) % (high - low),
            folder,
            int(environment.get("SLURM_RESTART_COUNT", "0")),
        )

    @property
    def torchrun(self) -> list[str]:
        """Return the arguments by which torchrun finds the other nodes."""
        if self.count == 1:
            return ["--standalone"]
        return [
            f"--nnodes={self.count}", f"--node_rank={self.number}", f"--master_addr={self.address}",
            f"--master_port={self.port}",
        ]  # fmt: skip

    def tell(self, status: str, error: str | None) -> None:
        """Leave word of how this node's ranks have ended."""
        if self.count > 1:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self._word(self.number)
            part = path.with_suffix(".part")
            part.write_text(json.dumps([status, error]))
            os.replace(part, path)

    def heard(self) -> list[tuple[str, str | None]]:
        """Return the words of the nodes whose ranks have ended: (status, error) each."""
        words = [self._word(number) for number in range(self.count)] if self.count > 1 else []
        return [tuple(json.loads(word.read_text())) for word in words if word.exists()]

    def agreed(self, patience: float) -> tuple[str, str | None]:
        """Wait for the words of all nodes, so many seconds at most; return what they come to: (status, error).

        The run was cut if one of them was, or says nothing. Of failures the one counts that is not that of another.
        """
        end = time.monotonic() + patience
        while len(heard := self.heard()) < self.count:
            if time.monotonic() > end:
                return "cut", f"{self.count - len(heard)} of its {self.count} nodes say nothing of how it ended there"
            time.sleep(POLL)
        worst = [word for status in ("cut", "failed") for word in heard if word[0] == status]
        return next((word for word in worst if LOST not in (word[1] or "")), [*worst, *heard][0])

    def _word(self, number: int) -> Path:
        return self.folder / f"attempt-{self.attempt}-node-{number}.json"
