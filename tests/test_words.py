"""data.tokenizer=words: the words of the training text are the vocabulary, and a line's end is one of them."""

import json

import numpy as np
import pytest

from data import load
from data.shards import Stream
from data.tokenizer import build
from data.words import Words, words_of

TRAIN = ["the cat sat\n", "the <unk> sat on the mat\n", "\n", "the end\n"]


def prepared(tmp_path, train=TRAIN, val="the dog sat\n", rows="lines"):
    (tmp_path / "train.txt").write_text("".join(train))
    (tmp_path / "val.txt").write_text(val)
    files = {"files": [str(tmp_path / "train.txt")], "val_files": [str(tmp_path / "val.txt")]}
    return load("local", quiet=True, **files, rows=rows, tokenizer="words", dir=str(tmp_path / "tokens"))


def spelled(dataset, shards, count):
    words = json.loads((dataset.folder / "words.json").read_text())
    return " ".join(words[i] for i in Stream(shards).read(0, count))


def test_a_corpus_is_its_words_and_the_ends_of_its_lines(tmp_path):
    dataset = prepared(tmp_path)
    assert dataset.vocabulary == 8  # the, cat, sat, <unk>, on, mat, end and <eos>
    assert dataset.train_tokens == 3 + 6 + 2 + 4 + 1  # the lines' words and ends, and the end of the document
    assert spelled(dataset, dataset.train, 5) == "the cat sat <eos> the"
    assert spelled(dataset, dataset.val, 5) == "the <unk> sat <eos> <eos>"
    words = json.loads((dataset.folder / "words.json").read_text())
    assert words == ["<eos>", "the", "sat", "<unk>", "cat", "end", "mat", "on"]  # by frequency, then by letters


def test_the_vocabulary_is_the_training_texts_alone(tmp_path):
    with pytest.raises(ValueError, match=r"has no word 'dog' and no <unk> to stand for it; write <unk> for its rare"):
        prepared(tmp_path, train=[TRAIN[0], TRAIN[3]])


def test_passages_of_any_length_give_the_words_of_the_text_in_one_piece(tmp_path, monkeypatch):
    lines = [f"word{n % 97} of line{n % 31}\n" for n in range(4000)]
    ids = {}
    for passage in (1 << 6, 1 << 13):
        monkeypatch.setattr("data.text.PASSAGE", passage)
        (tmp_path / str(passage)).mkdir()
        dataset = prepared(tmp_path / str(passage), lines, "word3 of line5\n")
        ids[passage] = Stream(dataset.train).read(0, dataset.train_tokens)
    assert len(ids[64]) == 4000 * 4 + 1
    np.testing.assert_array_equal(ids[64], ids[8192])


def test_a_preparation_that_goes_on_keeps_the_vocabulary_that_it_began_with(tmp_path, monkeypatch):
    monkeypatch.setattr("data.text.batches", lambda documents: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepared(tmp_path)
    (folder,) = (tmp_path / "tokens").iterdir()
    assert json.loads((folder / "words.json").read_text())[0] == "<eos>"
    words_of(folder, lambda: 1 / 0)  # not counted again


def test_many_words_take_wider_tokens_and_a_name_alone_is_refused():
    assert Words(["<eos>", *map(str, range(70_000))]).encode("69999\n").tolist() == [70_000, 0]
    assert Words(["<eos>", "a"]).encode("").tolist() == []
    with pytest.raises(ValueError, match=r"^tokenizer words is made of a corpus, beside whose tokens it lies: words"):
        build("words")
