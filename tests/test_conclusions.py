"""The page of conclusions: a line for each claim, others' figures beside ours, what weakens a verdict, counts."""

import pytest

from harness.claims.claim_file import read_claim
from scripts.pages.conclusions import page
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
    setting = "gpt2_pico on stdlib, 2,000 updates of 2,048 tokens"
    assert f"| tiny | {claimed} | {interval} in steps: {setting}, Xeon, 3 seeds | reproduced |" in text
    assert f"| paper | {claimed} | " in text
    assert f" in steps: {setting}, NVIDIA H100, 3 seeds | refuted |" in text
    assert text.index("| paper | twice") < text.index("| tiny | twice")  # the larger scale first
    assert "| tiny | twice as fast (≥ 1.5 in steps, less 10 % †) |  | " in text  # across parts
    assert "updates of 8,192 and 2,048 tokens, NVIDIA H100, 3 seeds |" in text
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


def test_statements_that_decide_nothing_are_counted(tmp_path):
    second = {**SPEEDUP, "says": "much faster", "at_least": 1.9}
    path = write_claim(tmp_path, statements=[SPEEDUP, second, {**second, "axis": "flops"}])
    train(read_claim(path), "tiny", tmp_path, {"new": 1.5}, noise=0.002)
    text = page([verified(path, "tiny", tmp_path)])
    assert "much faster" not in text
    assert "- Its other statements: 2 not seen at this scale\n" in text


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
