"""The page of conclusions: a line for each claim, others' figures beside ours, what weakens a verdict, counts."""

import pytest

from judge.claims.claim_file import read_claim
from judge.claims.conclusions import page
from tests.claimed import OTHER, SPEEDUP, change, scale, train, verified, write_claim

CPU = {"device.type": "cpu", "device.name": "Xeon"}


@pytest.fixture
def verdicts(tmp_path):
    """A claim that a paper's protocol refutes and a toy reproduces on a CPU, and another that stands across parts."""
    path = write_claim(tmp_path / "one", others=[OTHER, {"source": "C", "says": "no number"}])
    train(read_claim(path), "paper", tmp_path / "one", {"new": 1.1}, noise=0.002)
    train(read_claim(path), "tiny", tmp_path / "one", {"new": 1.5}, noise=0.002, manifest=CPU)
    across = {**SPEEDUP, "arm": "large/new", "against": "large/old", "than": ["small/new", "small/old"], "ours": True}
    parts = {"small": {}, "large": {"config": {"batch.tokens": 8192}}}
    other = write_claim(tmp_path / "two", {"tiny": scale(parts=parts)}, sentence="It grows.", statements=[across])
    train(read_claim(other), "tiny", tmp_path / "two", {"small/new": 1.2, "large/new": 1.9}, noise=0.001)
    return [verified(path, "tiny", tmp_path / "one"), verified(path, "paper", tmp_path / "one"),
            verified(other, "tiny", tmp_path / "two")]  # fmt: skip


def test_a_line_for_each_deciding_statement_and_scale(verdicts):
    text = page(verdicts)
    assert (
        "2 claims with runs, 3 verdicts:\n\n- at the scale paper 1 refuted\n- at the scale tiny 2 reproduced\n" in text
    )
    assert text.count("\n## twice\n") == 2
    estimate = verdicts[0].findings[0].main.estimate
    interval = f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"
    claimed = "twice as fast (≥ 1.5 in steps, less 10 %) | 0.5 to 0.75 in steps (Somebody, elsewhere)"
    flops = verdicts[0].findings[0].measured["flops"].estimate
    also = f"{flops.value:.2f} ({flops.low:.2f} to {flops.high:.2f}) in FLOPs"
    for name, word in {"tiny": "reproduced", "paper": "refuted"}.items():
        theirs = claimed if name == "paper" else f"{claimed.partition(' | ')[0]} | as above"
        row = next(line for line in text.splitlines() if line.startswith(f"| {name} | {theirs} | "))
        assert row.endswith(f" in seconds | {word} |")
        assert (f" | {interval} in steps, 3 seeds; {also}; " in row) == (name == "tiny")
    setting = (
        "gpt2_pico (0.1M parameters) on stdlib (10M training tokens), T = 2,000 updates of 2,048 tokens, "
        "41 tokens per parameter (2.05 of Chinchilla's 20)"
    )
    assert f"\nMeasured at the scale tiny: {setting}, Xeon.\n" in text
    assert f"\nMeasured at the scale paper: {setting}, NVIDIA H100.\n" in text
    assert text.index("| paper | twice") < text.index("| tiny | twice")  # the larger scale first
    assert "| tiny | twice as fast (≥ 1.5 in steps, less 10 % †) |  | " in text  # across parts
    assert "\nMeasured at the scale tiny, large: gpt2_pico" in text
    assert "updates of 8,192 tokens, 164 tokens per parameter (8.19 of Chinchilla's 20), NVIDIA H100.\n" in text
    assert "† the figure is ours" in text[text.index("It grows.") :]
    assert "What the scale tiny can say: no more than this" in text
    assert "[twice-paper.md](twice-paper.md)" in text
    assert "What others measured:\n\n- Somebody, elsewhere: 0.5 to 0.75 in steps. it is slower there\n- C: no n" in text


def test_what_weakens_a_verdict_is_told(verdicts, tmp_path):
    cautious = page(verdicts).split("What the scale ")
    assert [part.count("Beware: timed on a CPU") for part in cautious] == [0, 0, 1, 0]
    assert all("Beware: not tuned here: new, old" in part for part in cautious[1:3])
    arms = scale()["arms"]
    arms["old"] |= {"trials": 14}
    path = write_claim(tmp_path / "three", {"tiny": scale(arms=arms)})
    runs = train(read_claim(path), "tiny", tmp_path / "three", {"new": 1.5}, noise=0.002)
    old, new = ([run for run in runs if f"-{arm}-" in run.name] for arm in ("old", "new"))
    for file in old[0].iterdir():
        file.unlink()
    old[0].rmdir()
    change(new[0], "manifest.json", status="diverged", error="NaN")
    text = page([verified(path, "tiny", tmp_path / "three")])
    assert "- Beware: unequal tuning: old is the best of 14 trials, new of 0\n" in text
    assert "not tuned here" not in text
    assert "- Beware: 1 of 12 planned runs are not there\n" in text
    assert "- Beware: diverged: 1 of new\n" in text
    assert "1 claim with runs, 1 verdict:\n\n- at the scale tiny 1 underpowered\n" in text


def test_every_statement_has_its_row(tmp_path):
    second = {**SPEEDUP, "says": "much faster", "at_least": 1.9}
    path = write_claim(tmp_path, statements=[SPEEDUP, second, {**second, "axis": "flops"}])
    train(read_claim(path), "tiny", tmp_path, {"new": 1.5}, noise=0.002)
    text = page([verified(path, "tiny", tmp_path)])
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| tiny | ")]
    assert [row[1].partition(" (")[0] for row in rows] == ["twice as fast", "much faster", "much faster"]
    assert [row[-1] for row in rows] == ["reproduced |", "not seen at this scale |", "not seen at this scale |"]
    assert ["in steps, 3 seeds; " in row[3] for row in rows] == [True, True, False]
    assert "in FLOPs, 3 seeds; " in rows[2][3]
    assert "1 verdict:\n\n- at the scale tiny 1 reproduced\n" in text


def test_a_persons_files_are_named_and_an_end_of_what_was_tried_is_told(tmp_path):
    arms = scale()["arms"]
    arms["old"] |= {"trials": 4, "at_an_end": ["lr"]}
    config = {"experiment": "scale_tiny", "data": "local", "data.files": ["/somewhere/train-00.txt", "b.txt"]}
    path = write_claim(tmp_path, {"tiny": scale(arms=arms, config=config)})
    train(read_claim(path), "tiny", tmp_path, {"new": 1.5}, noise=0.002)
    text = page([verified(path, "tiny", tmp_path)])
    assert " on train-00.txt and 1 more (10M training tokens), T = " in text
    assert "/somewhere" not in text
    assert "- Beware: old: the best lr lay at an end of what was tried: a better one may lie beyond\n" in text


def test_a_corpus_of_the_hub_has_its_own_name_and_not_its_files_pattern(tmp_path):
    path = write_claim(tmp_path, {"tiny": scale(config={"experiment": "scale_tiny", "data": "ptb"})})
    train(read_claim(path), "tiny", tmp_path, {"new": 1.5}, noise=0.002, manifest={"data.name": "ptb"})
    assert " on ptb (10M training tokens), T = " in page([verified(path, "tiny", tmp_path)])


def test_a_deciding_statements_notes_are_cautions(tmp_path):
    path = write_claim(tmp_path)
    train(read_claim(path), "tiny", tmp_path, {"new": 1.5}, noise=0.002, manifest={"data.train_tokens": 1000})
    text = page([verified(path, "tiny", tmp_path)])
    assert "- Beware: runs too small for a verdict, which takes at most 4 epochs" in text


def test_the_file_of_a_device_stands_in_its_claims_section(tmp_path):
    path = write_claim(tmp_path)
    rated = path.rename(tmp_path / "twice.rates.yaml")
    path = write_claim(tmp_path)
    for each in (path, rated):
        train(read_claim(each), "tiny", tmp_path, {"new": 1.5}, noise=0.002)
    text = page([verified(each, "tiny", tmp_path) for each in (path, rated)])
    assert text.count("\n## twice\n") == 1
    assert "\n| tiny | twice" in text
    assert "\n| tiny (rates) | twice" in text
    assert "What the scale tiny (rates) can say:" in text
    assert "[twice.rates-tiny.md](twice.rates-tiny.md)" in text
