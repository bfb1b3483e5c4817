"""A verdict in words for a reader without statistics: what was decided, why, and what happens now. Pure."""

import math
from typing import NamedTuple

from ope.gate.verdict import Verdict
from ope.paired import Comparison

__all__ = ["Question", "answers", "consequence", "headline", "sureness", "why"]

_HEADLINES = {
    "promote": "Promoted: the new policy takes over",
    "hold": "Held: the current policy stays",
    "veto": "Vetoed: the evidence must not be believed, the current policy stays",
    "wait": "No verdict yet: the current policy stays for now",
}


class Question(NamedTuple):
    """A question that every reader has, and its answer; `good` is None where it was not asked."""

    text: str
    good: bool | None
    answer: str


def headline(verdict: Verdict) -> str:
    """What was decided, in one line."""
    if verdict.decision == "promote" and verdict.next_share < 1:
        return f"Promoted by a step: the new policy decides for {verdict.next_share:.0%} of the users"
    if verdict.decision == "veto" and any("uardrail" in reason for reason in verdict.reasons):
        return "Vetoed: the new policy does harm, the current policy stays"
    return _HEADLINES[verdict.decision]


def why(verdict: Verdict) -> str:
    """The reason, in one or two sentences."""
    if verdict.decision == "veto":
        return verdict.reasons[0]
    if not verdict.estimates:
        return "There is not enough to look at."
    compared = next(iter(verdict.estimates.values()))
    return f"{_compared(verdict, compared)} {_bar(verdict)}"


def consequence(verdict: Verdict) -> str:
    """What happens now."""
    if verdict.overridden:
        return "Nothing: this is a rerun with other settings, to look at. It can promote nobody."
    if verdict.decision == "promote" and verdict.next_share < 1:
        return f"{verdict.next_share:.0%} of the users get the new policy. The next step needs a verdict of its own."
    if verdict.decision == "promote":
        return (
            "All users get the new policy. It is watched: a broken guardrail brings the old one back by itself (by hand: `ope rollback`)."
        )
    if verdict.decision == "wait":
        return "Nothing yet. The gate looks again when more decisions have come."
    if verdict.contest.share:
        return f"The {verdict.contest.share:.0%} of the users that had the new policy go back. The next challenger may come."
    return "Nothing: all users keep the current policy. The next challenger may come."


def sureness(verdict: Verdict) -> str:
    """How often the gate is wrong by chance."""
    looks = "at one look that was fixed before" if verdict.config.get("looks") == 1 else "however often one looks"
    return f"A policy that is not good enough is promoted by chance in at most {verdict.level * 100:.3g} of 100 such contests, {looks}."


def answers(verdict: Verdict) -> list[Question]:
    """The questions behind the decision, in the order in which the gate asks them."""
    groups = {
        "Is the data complete, fresh and from after the training?": (
            "first judged",
            "rows whose",
            "reward out",
            "age of",
            "share of lost",
            "drift of",
        ),
        "Did the log try what the new policy would do?": ("choices", "effective", "weight of the top", "largest weight"),
        "Are the logged probabilities the ones that were used?": ("mean weight", "champion's rows", "propensities of"),
    }
    found = [_of_checks(verdict, text, names) for text, names in groups.items()]
    contradiction = any("contradict" in reason for reason in verdict.reasons)
    return [*found, _of_guardrails(verdict), _of_estimators(verdict, contradiction), _of_gain(verdict)]


def _of_checks(verdict: Verdict, text: str, names: tuple[str, ...]) -> Question:
    asked = [check for check in verdict.checks if check.name.startswith(names)]
    failed = [check for check in asked if not check.passed]
    if not asked:
        return Question(text, None, "not asked")
    return Question(text, not failed, " ".join(check.reason for check in failed[:2]) or f"yes ({len(asked)} checks)")


def _of_guardrails(verdict: Verdict) -> Question:
    text, declared = "Do the guardrails hold?", verdict.config.get("guardrails", ())
    if not declared:
        return Question(text, None, "none is declared for this task")
    said = [reason for reason in verdict.reasons if "uardrail" in reason]
    if not verdict.guardrails:
        return Question(text, False if said else None, " ".join(said) or "not asked")
    silent = bool(said) and all(reason.startswith("Not known") for reason in said)
    return Question(text, None if silent else not said, " ".join(said) or "yes: " + ", ".join(verdict.guardrails))


def _of_estimators(verdict: Verdict, contradiction: bool) -> Question:
    text = "Do two ways of estimating agree?"
    if contradiction:
        return Question(text, False, next(reason for reason in verdict.reasons if "contradict" in reason))
    return Question(
        text, True if verdict.estimates else None, "yes: " + " and ".join(verdict.estimates) if verdict.estimates else "not asked"
    )


def _of_gain(verdict: Verdict) -> Question:
    text = "Is the new policy good enough?" if verdict.margin < 0 else "Is the new policy better?"
    if not verdict.estimates:
        return Question(text, None, "not looked at")
    return Question(text, verdict.decision == "promote", _bar(verdict))


def _compared(verdict: Verdict, compared: Comparison) -> str:
    new, old, difference = compared.challenger, compared.champion, compared.difference
    if math.isnan(difference.value):
        return "The two policies could not be compared."
    return (
        f"On the same {verdict.rows:,} logged decisions the new policy would have had a {verdict.metric} of {new.value:.4g} per decision, "
        f"the current one {old.value:.4g}."
    )


def _bar(verdict: Verdict) -> str:
    difference = next(iter(verdict.estimates.values())).difference
    worst, best = (difference.lower, difference.upper) if verdict.direction == "higher" else (difference.upper, difference.lower)
    asked = f"{verdict.margin:+.4g}" if verdict.direction == "higher" else f"{-verdict.margin:+.4g}"
    return (
        f"The difference is {difference.value:+.4g}: with chance taken into account, between {worst:+.4g} at worst and {best:+.4g} at "
        f"best. The worst case must be better than {asked}."
    )
