"""Sentences on what weakens a claim's verdicts."""

from collections import Counter

from judge.claims.verdict import Verdict
from judge.fairness import UNEQUAL_TUNING
from judge.ladder import NEUTRAL
from judge.timing import untimed


def cautions(verdict: Verdict) -> list[str]:
    """Return sentences on what weakens the verdicts: unequal or untuned arms, lost runs, unsure seconds."""
    if verdict.public:
        return verdict.warnings
    runs = [run for _, arm in verdict.every_arm for run in arm.runs]
    sentences = [warning for warning in verdict.warnings if not warning.startswith(UNEQUAL_TUNING)]
    if unequal := [warning.removeprefix(UNEQUAL_TUNING) for warning in verdict.warnings if warning not in sentences]:
        sentences.append(UNEQUAL_TUNING + "; ".join(unequal))
    for each in verdict.deciding:
        names = dict.fromkeys(name.rpartition("/")[2] for name in each.statement.arms)
        if not any(verdict.scale.arms[name].trials for name in names):
            sentences.append(f"not tuned here: {', '.join(names)}")
        for name in (name for name in names if verdict.scale.arms[name].at_an_end):
            keys = " and ".join(verdict.scale.arms[name].at_an_end)
            sentences.append(f"{name}: the best {keys} lay at an end of what was tried: a better one may lie beyond")
        sentences += [note for note in each.main.notes if not note.startswith(NEUTRAL)]
    if verdict.missing:
        sentences.append(f"{len(verdict.missing)} of {len(verdict.missing) + len(runs)} planned runs are not there")
    if lost := Counter(arm.label for _, arm in verdict.every_arm for run in arm.runs if run.status == "diverged"):
        sentences.append(f"diverged: {', '.join(f'{count} of {label}' for label, count in lost.items())}")
    if reason := untimed([run for run in runs if run.final_loss is not None]):
        sentences.append(reason)
    return list(dict.fromkeys(sentences))
