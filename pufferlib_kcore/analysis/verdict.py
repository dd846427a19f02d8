"""Verdict: what came of a batch in plain words."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pufferlib_kcore.analysis import intervals
from pufferlib_kcore.analysis.groups import CONTROLS, STATUSES, Group, Result
from pufferlib_kcore.analysis.intervals import Estimate

ALPHA = 1 - intervals.LEVEL


def verdict(runs: Sequence[Result], groups: Sequence[Group]) -> dict[str, Any]:
    """What the page begins with: a paragraph on all, `overall`; of each group label, size, what is told."""
    told = []
    for group in groups:
        kept = group.kept("collapsed")
        size = f" ({kept:.1%} of the parameters)" if np.isfinite(kept) else ""
        told.append({"label": group.label, "size": size, "told": " ".join(single(group))})
    return {"overall": " ".join(overall(runs, groups)), "verdicts": told}


def overall(runs: Sequence[Result], groups: Sequence[Group]) -> Iterator[str]:
    """Sentences: in how many settings the collapsed runs end where, and what failed."""
    for control in CONTROLS:
        found = Counter(filter(None, (standing(group, control) for group in groups)))
        doubtful = Counter(standing(group, control) for group in groups if by_chance(group, control))
        if found:
            told = [f"{word} in {n}{_doubt(doubtful[word])}" for word, n in found.items()]
            settings = "1 setting" if found.total() == 1 else f"{found.total()} settings"
            yield f"Collapsed against {control}, {settings}: {', '.join(told)}."
    counts = Counter(run.entry.status for run in runs)
    for status in STATUSES[:-1]:
        if counts[status]:
            verb = "" if status == "failed" else "are " if counts[status] > 1 else "is "
            yield f"{counts[status]} of {len(runs)} runs {verb}{status}."
    if not any(run.counts for run in runs):
        yield "No run is done with a finished episode: there is nothing to compare yet."


def single(group: Group) -> Iterator[str]:
    """Sentences on one group."""
    own = group.final["collapsed"]
    others = {kind: group.final[kind] for kind in CONTROLS if group.final[kind].seeds}
    if not own.seeds:
        planned = len(group.runs.get("collapsed", ()))
        yield f"none of {planned} collapsed runs counts." if planned else "no collapsed run is planned."
        for kind, final in others.items():
            yield f"{kind.capitalize()} ends at {_told(final)}."
        return
    yield f"collapsed ends at {_told(own)}."
    for kind, final in others.items():
        word = standing(group, kind)
        link = (
            "than" if word in ("higher", "lower") else "from" if word == "not told apart" else "to tell from"
        )
        chance = f", probability of improvement {probability(group.improvement[kind])}"
        chance = "" if word == "too few seeds" else chance
        yield f"{word.capitalize()} {link} {kind}, {_told(final)}{chance}."
    if "original" not in others:
        yield "There is no original to compare with."
    doubtful = [kind for kind in others if by_chance(group, kind)]
    if doubtful:
        least = min(group.p_value(kind) for kind in doubtful)
        yield f"So few seeds may part by chance: p is {least:.2g} or more against {' and '.join(doubtful)}."


def standing(group: Group, control: str) -> str:
    """Where the collapsed runs end: 'higher' or 'lower' if the intervals are apart; '' without runs."""
    own, other = group.final["collapsed"], group.final[control]
    if not own.seeds or not other.seeds:
        return ""
    if not own.bounded or not other.bounded:
        return "too few seeds"
    if not own.apart(other):
        return "not told apart"
    return "higher" if own.value > other.value else "lower"


def by_chance(group: Group, control: str) -> bool:
    """Whether intervals are apart that so few seeds may have parted by chance, as the rank test has it."""
    return standing(group, control) in ("higher", "lower") and group.p_value(control) > ALPHA


def probability(chance: Estimate) -> str:
    """
    >>> probability(Estimate(0.75, 0.5, 1.0, 5))
    '0.75 [0.50, 1.00]'
    """
    return f"{chance.value:.2f}" + (f" [{chance.low:.2f}, {chance.high:.2f}]" if chance.bounded else "")


def _doubt(count: int) -> str:
    return f" ({count} with p above {ALPHA:.2g})" if count else ""


def _told(final: Estimate) -> str:
    return str(final) if final.bounded else f"{final} (one seed)"
