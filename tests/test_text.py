"""data/text.py and data/tokenizer.py: the same ids as tiktoken's, wherever running text is cut."""

import os
import sys
import threading

import pytest

from data.text import HEADING, TextRow, hold_out, passages, seam
from data.tokenizer import Bytes, build

POEM = "".join(f"line {n} of a poem\n" + "\n" * (n % 3 == 0) + "  indented\n" * (n % 5 == 0) for n in range(400))

bpe = pytest.mark.skipif("TIKTOKEN_CACHE_DIR" not in os.environ, reason="TIKTOKEN_CACHE_DIR is not set: no BPE files")


def test_a_share_goes_to_validation_whatever_the_order(tmp_path):
    texts = [f"document {n}" for n in range(2000)]
    parts = list(passages([TextRow(text, n) for n, text in enumerate(texts)], "documents"))
    held = {part.text for part, held in hold_out(parts, 0.1) if held}
    assert 150 < len(held) < 250
    assert {part.text for part, held in hold_out(reversed(parts), 0.1) if held} == held


def test_headings_and_seams():
    assert HEADING.fullmatch(" = Robert <unk> = \n")
    assert HEADING.fullmatch("= X =")
    for line in (" = = Plot = = \n", "a = b = c\n", " = \n", "\n", " = = = Deep = = = \n"):
        assert not HEADING.fullmatch(line)
    assert seam("a\n", "b\n")
    assert seam("a \n", " b\n")
    for line, following in [("\n", "b\n"), ("a\n", "  b\n"), ("a\n", "\n"), ("a \n", "b\n"), ("a\n", " \n")]:
        assert not seam(line, following)


@bpe
def test_running_text_has_the_tokens_of_the_text_in_one_piece(monkeypatch):
    """Cut at seams only, where BPE's own pattern cuts; blank and indented lines are the traps."""
    monkeypatch.setattr("data.text.PASSAGE", 100)
    tokenizer = build("gpt2")
    lines = [TextRow(line, n) for n, line in enumerate(POEM.splitlines(keepends=True))]
    parts = list(passages(lines, "lines"))
    assert len(parts) > 50
    assert [part.ends for part in parts] == [False] * (len(parts) - 1) + [True]
    assert [i for part in parts for i in tokenizer.encode(part.text)] == tokenizer.encode(POEM).tolist()


def test_bytes_are_utf8():
    assert Bytes().encode("aé\u4e2d").tolist() == [97, 195, 169, 228, 184, 173]
    assert Bytes().encode("").tolist() == []
    assert Bytes().encode("half a pair: \ud800").tolist()[-1] == ord("?")


@bpe
def test_gpt2_ids_are_tiktokens():
    import tiktoken

    encoding, tokenizer = tiktoken.get_encoding("gpt2"), build("gpt2")
    assert (tokenizer.vocabulary, tokenizer.end) == (50257, 50256)
    for text in (
        POEM,
        "",
        "<|endoftext|> is spelled out",
        "half a pair: \ud800x",
        "\u4e2d\u6587 emoji \U0001f600",
    ):
        assert tokenizer.encode(text).tolist() == encoding.encode_ordinary(text)


def test_a_million_blanks_in_a_row_are_cut(monkeypatch):
    """tiktoken gives up on them ("Max stack size exceeded"); what it can do in one piece stays in one piece."""
    if "TIKTOKEN_CACHE_DIR" not in os.environ:
        pytest.skip("TIKTOKEN_CACHE_DIR is not set: no BPE files")
    tokenizer = build("gpt2")
    blank = "begin" + " " * 1_000_000 + "end " + "\n" * 1_000_000 + "end"
    assert tokenizer.encoding.decode(tokenizer.encode(blank).tolist()) == blank
    short = "begin" + " " * 100_000 + "end"
    assert tokenizer.encode(short).tolist() == tokenizer.encoding.encode_ordinary(short)


def test_what_a_tokenizer_cannot_encode_is_named(monkeypatch):
    tiktoken = pytest.importorskip("tiktoken")

    class Failing:
        n_vocab, eot_token = 9, 8

        def encode_to_numpy(self, text, disallowed_special):
            raise ValueError("out of stack")

    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: Failing())
    for text in ("once upon a time" * 9, "x" + " " * 60_000 + "y", " " * 25_000):
        with pytest.raises(ValueError, match=r"tokenizer gpt2 cannot encode .* .out of stack.; take that text"):
            build("gpt2").encode(text)


def test_unknown_and_missing_tokenizers(monkeypatch):
    for name, hint in [
        ("gpt-2", "did you mean gpt2"),
        ("GPT2", "did you mean gpt2"),
        ("byte", "did you mean bytes"),
        ("gpt-4", "did you mean cl100k_base"),
        ("llama", "choose from bytes, cl100k_base"),
    ]:
        with pytest.raises(ValueError, match=rf"tokenizer must be bytes, .* not '{name}': {hint}"):
            build(name)
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(ModuleNotFoundError, match="pip install tiktoken, or take data=stdlib"):
        build("gpt2")


def test_no_bpe_files_and_no_network_is_a_sentence(monkeypatch):
    tiktoken = pytest.importorskip("tiktoken")

    def offline(name):
        raise OSError("Name or service not known")

    monkeypatch.setattr(tiktoken, "get_encoding", offline)
    with pytest.raises(ConnectionError, match="TIKTOKEN_CACHE_DIR"):
        build("gpt2")


def test_a_network_that_does_not_answer_is_given_up(monkeypatch):
    tiktoken = pytest.importorskip("tiktoken")
    release = threading.Event()
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: release.wait(30))
    monkeypatch.setattr("data.tokenizer.PATIENCE", 0.05)
    with pytest.raises(ConnectionError, match="no answer in 0 s"):
        build("gpt2")
    release.set()
