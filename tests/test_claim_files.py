"""The claims' files: each composes at every scale; whatever is wrong with one is a sentence that names file and key."""

import re
from collections.abc import Iterator

import pytest

from conventions.config_keys import CONFIGS, flatten, within
from conventions.planned_run import GROUPS
from conventions.run_format import RUNS
from judge.arms import MACHINE
from judge.claims.claim import Claim
from judge.claims.claim_file import CLAIMS, SCALES, find_claim, list_claims, read_claim
from judge.claims.statement import Statement
from judge.row import FEWEST_UPDATES
from scripts.claims import main
from scripts.study.claim_plan import check_arms
from scripts.study.claim_runs import ClaimRuns, compose_arm
from tests.claimed import OTHER, SPEEDUP, scale, write_claim
from tests.refusal import refusal

NAMES = sorted(path.stem for path in CLAIMS.glob("*.yaml"))
WANTED = {"sophia_2x", "sophia_figure4", "sophia_table1_compute", "sophia_540m_beats_770m", "sophia_clipping",
          "soap_40_35", "soap_frequency", "soap_batch", "shampoo_20", "adahessian_lm", "mkor"}  # fmt: skip


def arms(claim: Claim) -> Iterator[tuple[str, str, str]]:
    for name, each in claim.scales.items():
        for part in each.parts:
            yield from ((name, part, arm) for arm in each.arms_of(part))


def test_the_claims_are_there_at_every_scale():
    assert set(NAMES) >= WANTED
    others = {claim.name: claim for claim in list_claims() if set(claim.scales) != set(SCALES)}
    assert all(not claim.scales and claim.public for claim in others.values())  # these have no runs of ours
    assert set(others) == {"track3_record"}


@pytest.mark.parametrize("name", NAMES)
def test_a_claim_says_where_it_is_from_and_what_its_verdict_may_mean(name):
    claim = find_claim(name)
    assert "arXiv" in claim.source or not claim.scales
    assert all(each.may_say for each in (*claim.scales.values(), *claim.public))
    for each in claim.scales.values():
        assert len(each.seeds) >= 3
        beside = {part.beside or name for name, part in each.parts.items()}
        theirs = {figure.part for figure in claim.figures}
        assert not theirs or beside & theirs
        learns = [s for s in claim.statements if not (s.quantity and claim.quantities[s.quantity].per_step)]
        if each.name != "paper" and learns[:1] == claim.statements[:1]:
            assert all(each.length(part) >= FEWEST_UPDATES for part in each.parts)


def test_a_statement_may_name_several_patterns_of_parts():
    statement = Statement(says="so", measure="value", arm="new", quantity="loss", parts=["130m*", "pico"], at_most=1.0)
    assert statement.among(["pico", "130m_2x", "llama_2x", "130m"]) == ["pico", "130m_2x", "130m"]
    claim = find_claim("wen2025")
    [lion] = [each for each in claim.statements if each.arm == "lion"]
    for each in claim.scales.values():
        assert claim.tested_in(lion, list(each.parts)) == [part for part in each.parts if "lion" in each.arms_of(part)]


def test_every_kind_of_arm_composes():
    """Each set of keys and choices of groups is composed once; the slow test composes them all."""
    seen = set()
    for claim in list_claims():
        for name, part, arm in arms(claim):
            chosen = claim.scales[name].overrides(part, arm)
            groups = {key: chosen[key] for key in (*GROUPS, "launcher", "experiment") if key in chosen}
            kind = (frozenset(chosen), *sorted(groups.items()))
            if kind not in seen and groups.get("experiment", "scale_tiny").startswith(("scale_tiny", "soap")):
                check(claim, name, part, arm)
                seen.add(kind)
    assert len(seen) > 15


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_arm_composes(name):
    claim = find_claim(name)
    for where in arms(claim):
        check(claim, *where)
    for each in claim.scales.values():
        check_arms(ClaimRuns(claim, each.name, list(each.parts), each.seeds))


def check(claim: Claim, name: str, part: str, arm: str) -> None:
    values = compose_arm(claim, name, part, arm)
    each = claim.scales[name]
    assert (values["study"], values["steps"]) == (f"{claim.name}-{name}-{part}", each.length(part))
    for key, value in each.overrides(part, arm).items():
        if key not in (*GROUPS, "launcher", "experiment"):
            assert flatten(values)[key] == value


@pytest.mark.parametrize("name", NAMES)
def test_the_arms_of_a_part_can_be_told_apart(name):
    claim = find_claim(name)
    for each in claim.scales.values():
        for part in each.parts:
            configs = [sorted(map(str, each.overrides(part, arm).items())) for arm in each.arms_of(part)]
            assert all(one != other for i, one in enumerate(configs) for other in configs[:i])


def test_the_experiment_of_a_run_composes_to_what_was_planned(tmp_path):
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    claim = find_claim("sophia_2x")
    for name, part in {"paper": "355m", "tiny": "pico"}.items():
        asked = ClaimRuns(claim, name, [part], [2], ["device=cpu"])
        cell = next(cell for cell in claim.scale(name).cells([part], [2]) if cell.arm == "sophia_h")
        (run,) = asked.planned(asked.plans(), [cell])
        (tmp_path / "experiment").mkdir(exist_ok=True)
        (tmp_path / "experiment" / f"{run.name}.yaml").write_text(run.experiment())
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            result = compose("train", [f"hydra.searchpath=[file://{tmp_path}]", f"experiment={run.name}"])
        expected = compose_arm(claim, name, part, "sophia_h")
        changed = {"steps": cell.steps, "seed": 2, "device": "cpu", "run_dir": str(run.folder)}
        assert OmegaConf.to_container(result, resolve=True) == {**expected, **changed}
        assert expected["optimizer"]["name"] == "sophia_h"
        assert run.folder.parent == RUNS / claim.study(name, part)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sentense": "x"}, "sentense is no key of the config: did you mean sentence"),
        ({"sentence": 3}, "sentence must be a string, not 3"),
        ({"statements": []}, "statements is empty"),
        ({"statements": {"a": 1}}, "statements must be a list"),
        ({"statements": [3]}, "statements[0] holds keys, not the value 3"),
        ({"statements": [{**SPEEDUP, "at_most": 2.0}]}, "statements[0].at_least or at_most must be given, and not"),
        ({"statements": [{**SPEEDUP, "tolerance": 1.5}]}, "statements[0].tolerance must be a share"),
        ({"statements": [{**SPEEDUP, "measure": "guess"}]}, "statements[0].measure must be speedup or value or"),
        ({"statements": [{**SPEEDUP, "rule": "matches"}]}, "statements[0].rule 'matches' is not there: did you mean"),
        ({"statements": [{**SPEEDUP, "axis": "hours"}]}, "statements[0].axis must be steps or flops or seconds"),
        ({"statements": [{**SPEEDUP, "arm": "newer"}]}, "newer: 'newer' is no arm: did you mean new?"),
        ({"statements": [{**SPEEDUP, "arm": "here/new"}]}, "here/new: 'here' is no part"),
        ({"statements": [{**SPEEDUP, "against": None}]}, "statements[0].against must be the arm to compare with"),
        ({"statements": [{**SPEEDUP, "rule": "reverse"}]}, "the rule reverse needs 3 lengths or more of new, not [1"),
        ({"statements": [{**SPEEDUP, "parts": "no*"}]}, "no part is like 'no*'"),
        ({"statements": [{**SPEEDUP, "than": ["new"]}]}, "statements[0].than must be [arm, against]"),
        ({"statements": [{**SPEEDUP, "quantity": "loss"}]}, "statements[0].quantity must be left out of a speedup"),
        (
            {"statements": [{"says": "x", "measure": "value", "arm": "new", "quantity": "los", "at_least": 1}]},
            "statements[0].quantity 'los' is none of its quantities",
        ),
        ({"figures": [{"part": "a", "arm": "b", "quantity": "c", "value": "d"}]}, "figures[0].value must be a number"),
        ({"quantities": {"loss": {"metric": "val/loss"}}}, "quantities.loss.title is missing"),
        ({"others": [{"source": "x"}]}, "others[0].says is missing"),
        ({"others": [{**OTHER, "says": " "}]}, "others[0].says must be one line of text, not ' '"),
        ({"others": [{**OTHER, "source": "a\nb"}]}, "others[0].source must be one line of text"),
        ({"others": [{**OTHER, "value": "fast"}]}, "others[0].value must be a number or null, not 'fast'"),
        (
            {"others": [{**OTHER, "low": 2.0, "high": 1.0}]},
            "others[0].low must be at most value, and both at most high, not 2.0, 1.0",
        ),
        (
            {"others": [{**OTHER, "low": 1.0, "value": 0.5}]},
            "others[0].low must be at most value, and both at most high",
        ),
        ({"others": [{**OTHER, "beside": None}]}, "others[0].beside must be given where there are numbers"),
        ({"others": [{**OTHER, "beside": "twice as fest"}]}, "is like no statement: did you mean twice as fast?"),
        ({"others": [{**OTHER, "were": "here"}]}, "others[0].were is no key of others[0]: did you mean where?"),
        ({"scales": {"huge": scale()}}, "scales.huge is no scale: choose from paper, small, tiny"),
        ({"scales": {"tiny": {**scale(), "seeds": [1, 1]}}}, "scales.tiny.seeds must be different whole numbers"),
        ({"scales": {"tiny": {**scale(), "steps": 0}}}, "scales.tiny.steps must be at least 1, not 0"),
        ({"scales": {"tiny": {**scale(), "steps": "long"}}}, "scales.tiny.steps must be an integer, not 'long'"),
        ({"scales": {"tiny": {**scale(), "parts": {}}}}, "scales.tiny.parts is empty"),
        ({"scales": {"tiny": {**scale(), "parts": {"a/b": {}}}}}, "'a/b' must be letters, digits, dots and"),
        ({"scales": {"tiny": {**scale(), "config": {"seed": 3}}}}, "scales.tiny.config must not set seed"),
        ({"scales": {"tiny": {**scale(), "arms": {"old": {"lengths": [0.5]}}}}}, "arms.old.lengths must be shares"),
        ({"scales": {"tiny": {**scale(), "arms": {"old": {"trails": 3}}}}}, "did you mean trials?"),
        ({"scales": {"tiny": scale(parts={"only": {"arms": {"mew": {}}}})}}, "'mew' is no arm: did you mean new?"),
        ({"scales": {"tiny": {**scale(), "arms": {"new": {}, "old": {}}}}}, "arms new and old of the part only are"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_sentence(tmp_path, capsys, changes, expected):
    path = write_claim(tmp_path, **changes)
    assert refusal(capsys, main, "verify", str(path)).startswith(f"{path}: ")
    with pytest.raises(ValueError, match=r"twice\.yaml: ") as error:
        read_claim(path)
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"optimizer": "sopa"}, "the arm new of tiny/only: optimizer=sopa is not there: did you mean soap"),
        ({"batch.tokns": 3}, "batch.tokns is no key of the config: did you mean batch.tokens"),
        ({"batch.tokens": 1000}, "batch.tokens=1000 must be a multiple of context=128"),
        ({"experiment": "scale_huge"}, "experiment=scale_huge is not there"),
        ({"optimizer": "soap", "optimizer.evry": 3}, "optimizer.evry is no key of optimizer: did you mean every?"),
        ({"optimizer": "soap", "optimizer.every": 0}, "optimizer.every must be at least 1, not 0"),
        ({"schedule.warmup": 2000}, "schedule.warmup must be shorter than the run"),
    ],
)
def test_an_arm_that_does_not_compose_is_one_sentence(tmp_path, capsys, config, expected):
    recipes = scale()["arms"]
    recipes["new"]["config"] = config
    path = write_claim(tmp_path, {"tiny": scale(arms=recipes)})
    for command in ("plan", "run"):
        output = refusal(capsys, main, command, str(path))
        assert output.startswith(f"{path}: ")
        assert expected in output


def test_what_is_wrong_with_the_command_is_one_sentence(tmp_path, capsys):
    broken, path = tmp_path / "broken.yaml", write_claim(tmp_path)
    broken.write_text("sentence: [")
    odd = tmp_path / "my claim.yaml"
    odd.write_text(path.read_text())
    for arguments, expected in {
        ("verify", "sofia_2x"): "there is no claim 'sofia_2x': did you mean sophia_2x",
        ("verify", str(tmp_path / "none.yaml")): "is not there: give the name of a claim",
        ("verify", str(broken)): "broken.yaml, line 1, is broken (did not find",
        ("verify", str(odd)): "'my claim', must be letters",
        ("verify", str(path), "--runs", str(tmp_path)): "holds no run of twice at the scale tiny",
        ("verify", str(path), "--scale", "small"): "has no scale 'small': choose from paper, tiny",
        ("verify", str(path), "--part", "onyl"): "has no part 'onyl' at the scale tiny: did you mean only?",
        ("verify", str(path), "--seeds", "4"): "--seeds must be between 1 and 3",
        ("run", str(path), "optimizer.lr=1"): "optimizer.lr=1 would change what",
        ("run", str(path), "seed=7"): "seed=7 would change what",
    }.items():
        assert expected in refusal(capsys, main, *arguments)


def test_a_key_is_a_name_whatever_it_looks_like(tmp_path, capsys):
    """Arms and parts may be called 5 and on; where a key of that name is none, the sentence says so."""
    recipes = {name: scale()["arms"][arm] for name, arm in (("5", "old"), ("on", "new"))}
    statement = {**SPEEDUP, "arm": "on", "against": "5"}
    path = write_claim(tmp_path, {"tiny": scale(arms=recipes, parts={"12": {}})}, statements=[statement])
    plain = path.read_text().replace("'5':", "5:").replace("'on':", "on:").replace("'12':", "12:")
    path.write_text(plain)
    assert "\n      5:" in plain
    claim = read_claim(path)
    assert claim.scales["tiny"].arms_of("12") == ["5", "on"]
    assert compose_arm(claim, "tiny", "12", "on")["study"] == "twice-tiny-12"
    path.write_text(plain.replace("against: '5'", "against: 5"))
    sentence = f"{path}: statements[0].against must be a string or null, not 5: put it in quotes"
    assert refusal(capsys, main, "verify", str(path)) == sentence
    for text, expected in {
        "5: 1\n": "5 is no key of the config",
        "on: 1\n": "on is no key of the config",
        "source: {5: 6}\n": "line {line}, is broken (the key source is there already, in line 2): mend it",
    }.items():
        line = plain.count("\n") + 1
        path.write_text(plain + text)
        assert expected.format(line=line) in refusal(capsys, main, "verify", str(path))


def test_anyones_claim_needs_one_file(tmp_path, capsys):
    """Any optimizer by its class, any name for the arms."""
    recipes = {
        "baseline": {"config": {"optimizer": "adamw"}, "lengths": [0.5, 1, 2]},
        "mine": {"config": {"optimizer": "external", "optimizer._target_": "torch.optim.RAdam", "optimizer.lr": 1e-3}},
    }
    statement = {**SPEEDUP, "arm": "mine", "against": "baseline"}
    path = write_claim(tmp_path, {"tiny": scale(arms=recipes)}, statements=[statement])
    values = compose_arm(read_claim(path), "tiny", "only", "mine")
    assert values["optimizer"] == {"name": "external", "_target_": "torch.optim.RAdam", "lr": 1e-3}


def test_the_claim_in_the_documentation_is_one(tmp_path):
    text = (CONFIGS.parent / "docs" / "claims.md").read_text()
    (tmp_path / "mine.yaml").write_text(text.partition("```yaml\n")[2].partition("```")[0])
    claim = read_claim(tmp_path / "mine.yaml")
    assert compose_arm(claim, "tiny", "pico", "radam")["optimizer"]["_target_"] == "torch.optim.RAdam"
    check_arms(ClaimRuns(claim, "tiny", ["pico"], [0]))


def test_what_others_found_is_about_a_statement_and_follows_from_their_steps():
    result = {name: find_claim(name) for name in ("sophia_2x", "soap_40_35", "muon_2x", "shampoo_20")}
    ratios = 0
    for claim in result.values():
        assert claim.others
        for other in claim.others:
            about = [each for each in claim.statements if other.about(each)]
            assert all(each.measure == "speedup" and each.axis == "steps" for each in about) or other.low is None
            if "modded" in other.source:
                steps = [float(word) for word in re.findall(r"\d{4}", other.says.partition(".")[0])]
                # of the baseline, one or from least to most; then of the newcomer
                ends = [each / steps[-1] for each in steps[:-1]]
                assert [each for each in (other.low, other.value, other.high) if each] == pytest.approx(ends, abs=1e-3)
                ratios += 1
    assert ratios == 3
    ranges = [(each.low, each.high) for name in ("sophia_2x", "soap_40_35") for each in result[name].others[:1]]
    assert ranges == [(0.93, 1.04), (1.27, 1.42)]


def test_no_key_of_a_machine_is_fixed_by_a_claim():
    for claim in list_claims():
        for name, part, arm in arms(claim):
            fixed = [key for key in claim.scales[name].overrides(part, arm) if within(key, MACHINE)]
            assert fixed == [] or name == "paper"
