"""data/prepare.py and data/dataset.py: resumable to the byte, made once, and never stale behind a fingerprint."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import data.prepare
from data import load
from data.dataset import Splits
from data.prepare import Halves, Item, prepared, write
from data.progress import Progress
from data.shards import Shard, Stream
from scripts.prepare import main, section
from tests.refusal import refusal

ROOT = Path(__file__).resolve().parent.parent
BLOCKS, BLOCK = 60, 50


class Slow:
    """3,000 training and 300 validation tokens in 60 pieces; `pause` seconds each, on the reading side."""

    def __init__(self, dir, pause=0.0, fail_at=None):
        self.dir, self.pause, self.fail_at = str(dir), pause, fail_at
        self.identity = {"corpus": "slow"}

    def items(self, after):
        for number in range(after or 0, BLOCKS):
            if number == self.fail_at:
                raise ValueError("the corpus ends in a way nobody expected")
            time.sleep(self.pause)
            yield Item(number, number + 1, number / BLOCKS)

    def encode(self, number):
        train = np.arange(number * BLOCK, (number + 1) * BLOCK, dtype=np.uint16)
        return Halves(train, train[:5])

    def build(self, folder, progress):
        train, val = write(folder, self.items, self.encode, progress)
        return Splits(train, val, 4096, "numbers")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr("data.writer.SHARD_TOKENS", 1024)
    monkeypatch.setattr("data.prepare.DURABLE_EVERY", 0.0)
    monkeypatch.setattr("os.fsync", lambda file: None)  # for power cuts, which no test here makes


def contents(dataset):
    return {shard.path.name: shard.path.read_bytes() for shard in (*dataset.train, *dataset.val)}


def test_the_order_of_the_work_decides_the_bytes(tmp_path):
    dataset = prepared("slow", Slow(tmp_path), quiet=True)
    assert (dataset.train_tokens, dataset.val_tokens) == (3000, 300)
    assert [shard.path.name for shard in dataset.train] == [f"train_{shard:06d}.bin" for shard in range(3)]
    assert Stream(dataset.train).read(0, 3000).tolist() == list(range(3000))
    assert Stream(dataset.val).read(0, 300).tolist() == [b * BLOCK + i for b in range(BLOCKS) for i in range(5)]
    assert not (dataset.folder / "progress.json").exists()
    assert prepared("slow", Slow(tmp_path, fail_at=0), quiet=True) == dataset  # nothing is read a second time


@pytest.mark.parametrize("fail_at", [1, 21, 59])
def test_what_failed_goes_on_to_the_same_bytes(tmp_path, fail_at):
    whole = prepared("slow", Slow(tmp_path / "whole"), quiet=True)
    with pytest.raises(ValueError, match="nobody expected"):
        prepared("slow", Slow(tmp_path / "cut", fail_at=fail_at), quiet=True)
    assert not list(tmp_path.glob("cut/*/dataset.json"))
    resumed = prepared("slow", Slow(tmp_path / "cut"), quiet=True)
    assert contents(resumed) == contents(whole)
    assert resumed.fingerprint == whole.fingerprint


def test_work_that_is_durable_is_not_done_again(tmp_path):
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with pytest.raises(ValueError, match="nobody expected"):
        prepared("slow", Slow(tmp_path, fail_at=55), quiet=True)
    (state,) = tmp_path.glob("*/progress.json")
    assert json.loads(state.read_text())["state"]["after"] == 55 - 4 * threads


def test_kill_minus_nine_and_resume(tmp_path):
    """Killed twice in mid-air, the third run ends with the bytes of one that nobody touched."""
    program = (
        "import sys, data.writer, data.prepare; data.writer.SHARD_TOKENS = 1024; data.prepare.DURABLE_EVERY = .03;"
        "from tests.test_prepare import Slow; data.prepare.prepared('slow', Slow(sys.argv[1], .01), quiet=True)"
    )
    whole = prepared("slow", Slow(tmp_path / "whole"), quiet=True)
    for enough in (300, 1500):
        process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "cut")], cwd=ROOT)
        while process.poll() is None and reached(tmp_path / "cut") < enough:
            time.sleep(0.002)
        assert process.poll() is None, "it finished before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert reached(tmp_path / "cut") >= 1500
    assert not list(tmp_path.glob("cut/*/dataset.json"))
    assert contents(prepared("slow", Slow(tmp_path / "cut"), quiet=True)) == contents(whole)


def shards_in(folder, split):
    return [Shard(path) for path in sorted(folder.glob(f"{split}_*.bin"))]


def reached(folder):
    states = [json.loads(path.read_text()) for path in folder.glob("*/progress.json")]
    return states[0]["state"]["train"] if states else 0


def test_a_torn_tail_is_cut_off(tmp_path):
    with pytest.raises(ValueError, match="nobody expected"):
        prepared("slow", Slow(tmp_path / "cut", fail_at=30), quiet=True)
    (growing,) = tmp_path.glob("cut/*/train_000001.bin")
    growing.write_bytes(growing.read_bytes() + b"\1\2\3")
    whole = prepared("slow", Slow(tmp_path / "whole"), quiet=True)
    assert contents(prepared("slow", Slow(tmp_path / "cut"), quiet=True)) == contents(whole)


def test_a_lost_shard_of_an_unfinished_preparation_means_starting_over(tmp_path):
    with pytest.raises(ValueError, match="nobody expected"):
        prepared("slow", Slow(tmp_path / "cut", fail_at=50), quiet=True)
    next(tmp_path.glob("cut/*/train_000000.bin")).unlink()
    whole = prepared("slow", Slow(tmp_path / "whole"), quiet=True)
    assert contents(prepared("slow", Slow(tmp_path / "cut"), quiet=True)) == contents(whole)


def test_a_limit_is_kept_to_the_token_and_so_is_its_resumption(tmp_path):
    def limited(folder, fail_at=None):
        folder.mkdir(exist_ok=True)
        slow = Slow(folder, fail_at=fail_at)
        train, val = write(folder, slow.items, slow.encode, Progress("slow", quiet=True), limit=1234)
        return [shard.path.read_bytes() for shard in (*train, *val)]

    whole = limited(tmp_path / "whole")
    assert len(Stream(shards_in(tmp_path / "whole", "train"))) == 1234
    assert len(Stream(shards_in(tmp_path / "whole", "val"))) == 25 * 5  # of the pieces it took
    with pytest.raises(ValueError, match="nobody expected"):
        limited(tmp_path / "cut", fail_at=20)
    assert limited(tmp_path / "cut") == whole


def in_another_process(folder, results):
    slow = Slow(folder, pause=0.005)
    read = []
    slow.items, items = lambda after: (read.append(item) or item for item in items(after)), slow.items
    results.put((len(read) if prepared("slow", slow, quiet=True) else None, len(read)))


def test_processes_at_once_do_the_work_once(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    processes = [context.Process(target=in_another_process, args=(tmp_path, results)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert sorted(results.get()[1] for _ in processes) == [0, 0, BLOCKS]
    assert len(list(tmp_path.glob("*/dataset.json"))) == 1


def test_no_disk_left_is_one_sentence_and_loses_nothing(tmp_path, monkeypatch):
    whole = prepared("slow", Slow(tmp_path / "whole"), quiet=True)
    append = data.prepare.Writer.write

    def full(writer, values):
        if writer.tokens > 1500:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(writer, values)

    with monkeypatch.context() as patch:
        patch.setattr(data.prepare.Writer, "write", full)
        with pytest.raises(OSError, match=r"no disk space is left for .*slow-.*run again") as caught:
            prepared("slow", Slow(tmp_path / "cut"), quiet=True)
    assert "\n" not in str(caught.value)
    assert reached(tmp_path / "cut") > 1000
    assert contents(prepared("slow", Slow(tmp_path / "cut"), quiet=True)) == contents(whole)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match=r"data.dir: .* cannot be written .*; choose another"):
        prepared("slow", Slow(tmp_path / "file"), quiet=True)


def test_shards_are_held_to_their_fingerprint(tmp_path):
    dataset = prepared("slow", Slow(tmp_path), quiet=True)
    shard = dataset.train[1].path
    good = shard.read_bytes()

    def refused(sentence, kind=ValueError):
        with pytest.raises(kind, match=sentence) as caught:
            prepared("slow", Slow(tmp_path), quiet=True)
        assert str(shard) in str(caught.value)
        assert f"delete {dataset.folder} and run again" in str(caught.value)

    shard.write_bytes(good[:-2] + b"\7\7")
    refused("has changed since its fingerprint was taken")
    shard.write_bytes(good[:-20])
    refused("cut short")
    shard.write_bytes(b"something else")
    refused("not a token shard but text")
    shard.unlink()
    refused("is missing", FileNotFoundError)
    shard.write_bytes(good)  # touched, but the same: read again once, then trusted by its new time
    assert prepared("slow", Slow(tmp_path), quiet=True) == dataset
    recorded = json.loads((dataset.folder / "dataset.json").read_text())["train"][1]
    assert recorded["mtime_ns"] == shard.stat().st_mtime_ns


def test_a_damaged_record_says_what_to_delete(tmp_path):
    dataset = prepared("slow", Slow(tmp_path), quiet=True)
    (dataset.folder / "dataset.json").write_text("{}")
    with pytest.raises(ValueError, match=r"damaged; delete .*slow-"):
        prepared("slow", Slow(tmp_path), quiet=True)


def test_progress_speaks_in_lines_where_there_is_no_terminal(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("data.progress.EVERY", 0.0)
    prepared("slow", Slow(tmp_path / "a"))
    spoken = capfd.readouterr().err
    assert "preparing slow in" in spoken
    assert "M tokens, " in spoken
    assert "3,000 training and 300 validation tokens" in spoken
    prepared("slow", Slow(tmp_path / "b"), quiet=True)
    assert capfd.readouterr().err == ""


def test_the_program_prepares_and_answers_bad_input_in_one_sentence(tmp_path, monkeypatch, capsys):
    command = [sys.executable, "-m", "scripts.prepare", "synthetic", "tokens=5000", "val_tokens=500", f"dir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "5,000 training tokens" in done.stdout
    assert load("synthetic", tokens=5000, val_tokens=500, dir=str(tmp_path)).fingerprint in done.stdout
    for arguments, sentence in [
        (("synthetik",), "did you mean synthetic"),
        (("synthetic", "token=5"), "did you mean tokens"),
        (("synthetic", "tokens=many"), "data.tokens must be an integer"),
        (("synthetic", "tokens=0"), "data.tokens must be at least 1"),
        (("local",), "data.files is missing"),
        (("local", "files=/nowhere/*.txt"), "there is no file at /nowhere/*.txt"),
        (("local", "files=${HOME}/x"), "Interpolation key 'HOME' not found; an environment variable is written $NAME"),
    ]:
        monkeypatch.setattr(sys, "argv", ["prepare", *arguments, f"dir={tmp_path}"])
        assert sentence in refusal(capsys, lambda _: main())


def test_what_is_written_after_a_key_is_its_value_or_text():
    """As train.py reads it; what its grammar does not read is taken as it is."""
    for inputs, value in [
        ("*.jsonl", "*.jsonl"),
        ("@x", "@x"),
        ("[a", "[a"),
        ("[*.jsonl, b.txt]", ["*.jsonl", "b.txt"]),
        ("~/caf\u00e9 \udcff.txt", "~/caf\u00e9 \udcff.txt"),
        ("2024_01_15", "2024_01_15"),
        ("1e3", "1e3"),
        ("a,b", "a,b"),
        ("a=b", "a=b"),
        ("'a b'", "a b"),
    ]:
        assert section("local", [f"files={inputs}"])["files"] == value
    assert section("local", ["files=a", "tokens=10_000"])["tokens"] == 10_000
    assert section("local", ["files=a", "val_files=null"])["val_files"] is None
    assert section("local", ["files=a", "val_share=0.5"])["val_share"] == 0.5
