"""The tokenizer of a claim's runs, checked before they start: `data.tokenizer=...` is given for all of them at once."""

from conventions.config_keys import tokenizer_label
from data.plan import check_data, vocabulary
from judge.claims.claim import PAPER
from judge.claims.plan import read_studies
from scripts.study.claim_runs import TOKENIZER, ClaimRuns, compose_arm


def check_tokenizer(asked: ClaimRuns) -> None:
    """Refuse a tokenizer that is none, that the claim does not take, or that the runs which are there do not have.

    Raises:
        ValueError: naming the key, and the claim's file or a run.
        ConnectionError: it would have to be fetched, and cannot be.
    """
    claim, scale = asked.claim, asked.claim.scale(asked.scale)
    for part in scale.parts:
        arm = scale.arms_of(part)[0]
        own = compose_arm(claim, asked.scale, part, arm, asked.flags)["data"].get("tokenizer")
        section = compose_arm(claim, asked.scale, part, arm, asked.of_runs)["data"]
        wanted = section.get("tokenizer")
        if wanted != own:
            if TOKENIZER in scale.overrides(part, arm):
                raise ValueError(
                    f"{TOKENIZER}={wanted} would change the tokenizer that {claim.path} fixes: leave it out"
                )
            if asked.scale == PAPER and scale.tokenizer is None:
                raise ValueError(
                    f"{TOKENIZER}={wanted} would change the tokens of the paper's own protocol: {claim.path} names no "
                    f"scales.{PAPER}.tokenizer that {own} stands for"
                )
            check_data(section)
            size, paper = vocabulary(section, 0), scale.tokenizer  # 0: `words`, whose number the corpus decides
            if asked.scale == PAPER and paper and size != paper.vocabulary:
                raise ValueError(
                    f"{TOKENIZER}={wanted} is no tokenizer of {paper.vocabulary:,} tokens, as {paper.name}'s is: at "
                    f"the scale {PAPER} give that one, or leave the key out"
                )
        for run in read_studies(claim, asked.scale, [part], asked.place)[part]:
            theirs = run.section("data").get("tokenizer")
            if theirs is not None and wanted is not None and tokenizer_label(theirs) != tokenizer_label(wanted):
                raise ValueError(
                    f"{run.folder} was trained with {TOKENIZER}={theirs}, and this command would train with {wanted}: "
                    f"all runs of a claim have the same tokens, so give {TOKENIZER}={theirs}, or move "
                    f"{run.folder.parent} away"
                )
