"""A study that others published, as configs/public/<name>.yaml describes it: where it is, and how it is judged.

title, setting    what it is, in a line each
repository, commit, folder    where its files are; a checkout of that commit makes results/public/<name>.csv again
baseline, rule    what the others are held against, and by which rule of judge/speedup.py
sigma, slope      what is declared where seeds are few, or where everyone stops at one loss
beware            what weakens its numbers
logs              for runs that were logged: the files of each arm, and the update at which it is stated
tables            for a file for each cell: the pattern of their paths, and the keys in them
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from conventions.config_keys import CONFIGS
from conventions.keywords import construct
from conventions.sentence import nearest
from conventions.yaml_file import read_yaml
from judge.declared import Declared, Sigma, Slope
from judge.public.cell import Cell, Choice, read_cells

STUDIES = CONFIGS / "public"
RESULTS = CONFIGS.parent / "results" / "public"


@dataclass(frozen=True)
class LoggedArm:
    """The runs of one arm, and what their source prints of them."""

    name: str
    files: list[str]  # patterns of paths below the study's folder
    updates: int  # at which it is stated, though its runs may go on
    printed: float | None = None  # the mean loss as the source has it
    seeds: int | None = None  # how many runs it is said to be of
    column: str | None = None  # of the loss, where it is another than the format's own


@dataclass(frozen=True)
class Logs:
    """Runs that were logged one by one, all of one size."""

    size: str
    parameters: int
    tokens_per_update: int
    arms: list[LoggedArm]


@dataclass(frozen=True)
class Tables:
    """JSON files, one for each cell. Keys are dotted."""

    pattern: str  # a regular expression on the path below the folder, with the groups arm, size and budget
    losses: str  # key of the chosen configuration's loss
    lowest: str  # key of the lowest loss of all trials
    trials: str  # key of the trials' losses
    parameters: dict[str, int]  # of each size
    tokens_per_parameter: float  # at budget 1
    names: dict[str, str] = field(default_factory=dict)  # what an arm is called here


@dataclass(frozen=True)
class PublicStudy:
    """A study of others; `cells` are read from results/public."""

    name: str
    title: str
    setting: str
    repository: str  # a web address
    commit: str
    folder: str
    baseline: str
    rule: Literal["matched", "isoloss"]
    sigma: Sigma
    slope: Slope | None = None
    beware: str = ""
    adamw: str | None = None  # the arm that stands for AdamW on the board; null: the baseline
    beware_of_adamw: str = ""  # what weakens a comparison with it
    pictured: list[str] = field(default_factory=list)  # the arms in the board's picture; none: all
    budget: str = "budget"  # what a budget of it is, for headings
    losses: Choice = "chosen"  # those that decide where both are known
    logs: Logs | None = None
    tables: Tables | None = None

    @property
    def declared(self) -> Declared:
        return Declared(self.sigma, self.rule == "isoloss", self.slope)

    @property
    def path(self) -> Path:
        return RESULTS / f"{self.name}.csv"

    @property
    def command(self) -> str:
        return f"python -m scripts.public collect {self.name} CHECKOUT"

    @property
    def cells(self) -> list[Cell]:
        if not self.path.is_file():
            raise ValueError(f"{self.path} is not there: {self.command}, with a checkout of {self.repository}")
        return read_cells(self.path)

    def address(self, cell: Cell) -> str:
        """Return the web address of a cell's file, or of the folder that holds its files."""
        kind = "tree" if cell.source.endswith("*") else "blob"
        return f"{self.repository}/{kind}/{self.commit}/{self.folder}/{cell.source.removesuffix('*')}".rstrip("/")


def list_studies() -> list[PublicStudy]:
    return [read_study(path.stem) for path in sorted(STUDIES.glob("*.yaml"))]


def read_study(name: str) -> PublicStudy:
    """Read a study's file. Raises ValueError, which names the file and the key, for whatever is wrong with it."""
    path = STUDIES / f"{name}.yaml"
    if not path.is_file():
        names = [each.stem for each in STUDIES.glob("*.yaml")]
        raise ValueError(f"there is no public study {name!r} in configs/public: {nearest(name, names)}")
    values = read_yaml(path)
    try:
        study: PublicStudy = construct(PublicStudy, values, "", name)
        if (study.logs is None) == (study.tables is None):
            raise ValueError("logs or tables must be given, and not both: where its numbers are")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return study
