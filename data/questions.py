"""Questions whose answers stand in a passage: SQuAD v1.1 from the Hub or from a folder, and made-up ones.

Rajpurkar et al. 2016, "SQuAD" (arXiv 1606.05250).
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from conventions.json_text import parse_json
from conventions.paths import expanded, forget_empty
from conventions.run_format import first_line
from data.hub import resolve

REPOSITORY = "rajpurkar/squad"
FILES = ("train-v1.1.json", "dev-v1.1.json")  # in a folder, as the authors publish them


class Question(NamedTuple):
    """A question, its passage, and the answers that people gave, each with the character where it begins there."""

    name: str
    text: str
    passage: str
    answers: tuple[tuple[str, int], ...]


class Questions(NamedTuple):
    """Questions to learn from and to be asked, and where they are from."""

    train: list[Question]
    asked: list[Question]
    source: str

    @property
    def sha256(self) -> str:
        """Return a digest of all that stands in them, in their order."""
        return hashlib.sha256(json.dumps([self.train, self.asked]).encode("utf-8", "surrogatepass")).hexdigest()


def read_squad(folder: str | None = None) -> Questions:
    """Read SQuAD v1.1 from a folder with its two files, or from the Hub.

    Raises:
        FileNotFoundError, ValueError: a file is not there, or not SQuAD's; the sentence names it.
        ConnectionError, ModuleNotFoundError: the Hub cannot be reached, or `datasets` is missing.
    """
    if folder is None:
        return _from_hub()
    place = expanded(folder, "--questions")
    train, asked = (_read(place / name) for name in FILES)
    return Questions(train, asked, str(place))


def _read(path: Path) -> list[Question]:
    try:
        articles = parse_json(path.read_text(encoding="utf-8"))["data"]
        rows = [
            (each["id"], each["question"], paragraph["context"],
             [(answer["text"], answer["answer_start"]) for answer in each["answers"]])
            for article in articles for paragraph in article["paragraphs"] for each in paragraph["qas"]
        ]  # fmt: skip
        return list(_checked(rows))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"--questions: there is no {path}; the folder must hold {' and '.join(FILES)}, as SQuAD's page has them"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"--questions: {path} is no file of SQuAD v1.1 ({first_line(error)})") from None


def _from_hub() -> Questions:
    forget_empty("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_TOKEN", "XDG_CACHE_HOME")
    try:
        commit = resolve(REPOSITORY, None)
        import datasets

        splits = datasets.load_dataset(REPOSITORY, revision=commit)
    except ModuleNotFoundError:
        raise ModuleNotFoundError("--questions: SQuAD is on the Hub, which needs the package datasets") from None
    except Exception as error:  # httpx, requests, OSError: it depends on the version of the Hub's client
        raise ConnectionError(
            f"--questions: SQuAD cannot be had from the Hugging Face Hub ({type(error).__name__}); run again with a "
            f"network, or give --questions FOLDER, a folder with {' and '.join(FILES)}, or --questions made_up"
        ) from None

    def rows(split: str) -> list[Question]:
        return list(_checked(
            (row["id"], row["question"], row["context"],
             list(zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)))
            for row in splits[split]
        ))  # fmt: skip

    return Questions(rows("train"), rows("validation"), f"{REPOSITORY} at {commit}")


def _checked(rows: Iterable[tuple[Any, Any, Any, list[tuple[Any, Any]]]]) -> Iterator[Question]:
    """Yield questions; ValueError where one has no answer, or an answer that does not stand in its passage."""
    for name, text, passage, answers in rows:
        if not all(isinstance(each, str) for each in (name, text, passage)):
            raise ValueError(f"question {name} is no text")
        if not answers:
            raise ValueError(f"question {name} has no answer")
        for answer, start in answers:
            if not answer or passage[start : start + len(answer)] != answer:
                raise ValueError(f"the answer {answer!r} of question {name} does not stand at {start} of its passage")
        yield Question(name, text, passage, tuple((answer, start) for answer, start in answers))
