"""Reads any corpus on the Hugging Face Hub that has a column of text; only its tokens are kept on the disk.

    python train.py data=openwebtext
    python train.py data=hub data.repository=roneneldan/TinyStories data.val_split=validation

A preparation that is interrupted goes on with the commit that it began with. A folder that holds Parquet or JSON
lines, say a downloaded snapshot, can stand for the repository, and then no network is needed.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conventions.paths import expanded, forget_empty
from data.files import below, stamp
from data.prepare import DIR
from data.text import Document, Rows, Text, TextRow, check_share, check_tokens, checked, hold_out, passages

ROWS = 256  # read at a time
PATIENCE = 10.0  # seconds for the Hub's first answer; later hiccups are retried by `datasets`


def hub(
    repository: str,
    subset: str | None = None,
    revision: str | None = None,
    files: str | None = None,
    train_split: str = "train",
    val_split: str | None = None,
    column: str = "text",
    rows: Rows = "documents",
    val_share: float = 0.0005,
    tokens: int | None = None,
    tokenizer: str = "gpt2",
    dir: str = DIR,
) -> Text:
    """Read the text in one column of a corpus on the Hub. Without val_split a share of it, by its hash, is held out.

    The keywords are explained in configs/data/hub.yaml. Raises, while preparing, ModuleNotFoundError without
    `datasets`, ConnectionError without a network, ValueError where the repository has no such subset, revision,
    files, split or column.
    """
    if val_split is None:
        check_share(val_share)
    check_tokens(tokens)
    forget_empty("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_TOKEN", "XDG_CACHE_HOME")
    if repository.startswith(("~", "$")):
        repository = str(expanded(repository, "data.repository"))
    splits = [train_split] if val_split is None else [val_split, train_split]
    folder = Path(repository)
    snapshot = sorted(path for path in below(folder) if path.is_file()) if folder.is_dir() else []

    def documents(after: Any) -> Iterator[Document]:
        commit, first, place = after or (resolve(repository, revision), 0, None)
        for number, split in enumerate(splits[first:], first):
            table = read(repository, subset, commit, files, split, column, place)
            place = None
            if rows != "documents":
                table = (row._replace(text=row.text.removesuffix("\n") + "\n") for row in table)
            parts = passages(table, rows)
            share = val_share if val_split is None else float(split == val_split)
            for part, held_out in hold_out(parts, share):
                yield Document(part._replace(after=(commit, number, part.after)), held_out)

    identity = {
        "repository": repository,
        "snapshot": stamp(snapshot) if snapshot else None,
        "subset": subset,
        "revision": revision,
        "files": files,
        "splits": splits,
        "column": column,
        "rows": rows,
        "val_share": val_share if val_split is None else None,
        "tokens": tokens,
        "tokenizer": tokenizer,
    }
    return Text(dir, identity, tokenizer, documents, tokens)


def resolve(repository: str, revision: str | None) -> str | None:
    """Return the commit that a revision stands for now; None for a folder on this machine.

    Raises ConnectionError soon where there is no network, ValueError where there is no such revision.
    """
    if Path(repository).is_dir():
        return None
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
    except ModuleNotFoundError:
        raise missing(repository) from None
    try:
        return HfApi().dataset_info(repository, revision=revision, timeout=PATIENCE).sha
    except GatedRepoError:
        raise ValueError(f"repository {repository} is gated: accept its terms and set HF_TOKEN") from None
    except RevisionNotFoundError:
        raise ValueError(f"revision {revision} is not in {repository} on the Hugging Face Hub") from None
    except RepositoryNotFoundError:
        raise ValueError(f"repository {repository} is not a public dataset on the Hugging Face Hub") from None
    except Exception as error:  # httpx, requests, OSError: it depends on the version of the Hub's client
        raise unreachable(repository, error) from None


def read(
    repository: str,
    subset: str | None,
    commit: str | None,
    files: str | None,
    split: str,
    column: str,
    after: Any,
) -> Iterator[TextRow]:
    """Yield the rows of one split after the place `after`, which is [state of the stream, rows since that state]."""
    try:
        import datasets
    except ModuleNotFoundError:
        raise missing(repository) from None
    state, skip = after or (None, 0)
    try:
        wanted = {split: files.replace("{split}", split)} if files else None
        stream = datasets.load_dataset(
            repository, subset, revision=commit, data_files=wanted, split=split, streaming=True
        ).select_columns([column])
        if state:
            stream.load_state_dict(state)
        before = stream.state_dict()
        for batch in stream.iter(ROWS):
            for number, text in enumerate(batch[column], 1):
                if number > skip:
                    yield TextRow(checked(text, repository, column), (before, number))
            skip = 0
            before = stream.state_dict()
    except (ValueError, RuntimeError, FileNotFoundError) as error:
        why = str(error).split("\n")[0].rstrip(".")
        raise ValueError(
            f"repository {repository} cannot be read ({why}); check data.subset, data.revision, data.files, "
            "data.train_split, data.val_split and data.column"
        ) from None
    except Exception as error:
        raise unreachable(repository, error) from None


def missing(repository: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"data.repository={repository} needs the package datasets: pip install datasets, or take data=stdlib"
    )


def unreachable(repository: str, error: Exception) -> ConnectionError:
    why = str(error).split("\n")[0].rstrip(".") or type(error).__name__
    return ConnectionError(
        f"data.repository={repository}: the Hugging Face Hub cannot be reached ({why}); run again with a network, "
        "and it goes on from where it stopped; or give a downloaded copy with data.repository=FOLDER, files of "
        "your own with data=local, or take data=stdlib, which needs no download"
    )
