"""The page of the classes that were tried: a row for each that trains, a sentence for each that does not."""

from pathlib import Path

from tests.external import config, remedy
from tests.external_page import page

MUON, SPARSE = "torch.optim.Muon", "torch.optim.SparseAdam"
GIVEN = "optimizer.rest._target_=torch.optim.AdamW optimizer.rest.lr=1e-3"
TRAINS = {
    "target": MUON, "verdict": "trains", "overrides": {"optimizer.rest.lr": "1e-3"}, "handed": ["hidden matrices"],
    "heeds_schedule": True, "own_schedule": None, "bytes": 4.81, "counted": True, "resumes": "yes", "decay": "once",
    "seconds": 0.62,
}  # fmt: skip
REASON = f"optimizer._target_={SPARSE} is refused: SparseAdam takes sparse gradients alone: take torch.optim.Adam"
REFUSED = {"target": SPARSE, "verdict": "refused", "overrides": {}, "seconds": 0.1, "reason": REASON}


def test_a_row_says_which_keys_it_takes_and_what_is_handed_over():
    other = {**TRAINS, "target": "a.B", "own_schedule": "it averages its weights", "counted": False}
    text = page([TRAINS, other, REFUSED], {"torch": "2.13"})
    assert "Of 3 classes 2 train, 1 are refused." in text
    keys = "| `optimizer.rest.lr=1e-3` | hidden matrices |"
    assert f"| `{MUON}` | trains {keys} yes | followed | once | counted | 4.8 | 1 |" in text
    assert "| own | once | unknown |" in text
    assert f"- `{SPARSE}` refused. SparseAdam takes sparse gradients alone: take torch.optim.Adam." in text


def test_the_remedy_in_a_sentence_becomes_overrides():
    named = remedy(MUON, f"{MUON} takes hidden matrices alone: give the rest to another class, as in {GIVEN}")
    assert list(named) == ["optimizer.rest._target_", "optimizer.rest.lr"]
    assert config(MUON, named)["optimizer"]["rest"] == {"_target_": "torch.optim.AdamW", "lr": 1e-3}


def test_the_committed_page_is_of_this_form():
    text = (Path(__file__).parent.parent / "docs" / "external.md").read_text()
    assert text.startswith(page([TRAINS], {"torch": "2.13"}).partition("## Those that were tried")[0])
