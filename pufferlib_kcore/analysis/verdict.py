"""Verdict: what came of a batch in plain words, as HTML."""

import html
from collections.abc import Iterator, Sequence

import numpy as np

from pufferlib_kcore.analysis import intervals
from pufferlib_kcore.analysis.groups import CONTROLS, STATUSES, Group, Outcome
from pufferlib_kcore.analysis.intervals import Estimate


def verdict(runs: Sequence[Outcome], groups: Sequence[Group]) -> Iterator[str]:
    """What came of it in plain words, as HTML: one paragraph on all, then a sentence a group."""
    sentences = []
    for control in CONTROLS:
        found = [word for word in (standing(group, control) for group in groups) if word]
        if found:
            tally = ", ".join(f"{word} in {found.count(word)}" for word in dict.fromkeys(found))
            sentences.append(f"Collapsed against {control}, of {len(found)} settings: {tally}.")
    for status in STATUSES[:-1]:
        count = sum(run.entry.status == status for run in runs)
        if count:
            is_ = "run is" if count == 1 else "runs are"
            look = "runs failed" if count > 1 else "run failed"
            sentences.append(f"{count} {look}." if status == "failed" else f"{count} {is_} {status}.")
    if not any(run.counts for run in runs):
        sentences.append("No run is done with a finished episode: there is nothing to compare yet.")
    yield f'<p class="verdict">{html.escape(" ".join(sentences))}</p>'
    yield "<ul>"
    for group in groups:
        place = f"<b>{html.escape(group.label)}</b>"
        yield f"<li>{place}{html.escape(_kept(group))}: {html.escape(sentence(group))}</li>"
    yield "</ul>"


def sentence(group: Group) -> str:
    """The verdict on one setting."""
    own = group.final["collapsed"]
    told = {kind: group.final[kind] for kind in CONTROLS if group.final[kind].seeds}
    if not own.seeds:
        rest = ", ".join(f"{kind} {_seeded(final)}" for kind, final in told.items())
        return "no collapsed run counts" + (f"; {rest}." if rest else ".")
    parts = []
    for kind, final in told.items():
        chance = group.improvement[kind]
        parts.append(
            f"{standing(group, kind)} than {kind} {_seeded(final)}"
            if final.bounded and own.bounded and own.apart(final)
            else f"{standing(group, kind)} against {kind} {_seeded(final)}"
        )
        parts[-1] += f", probability of improvement {chance}{_caution(group, kind)}"
    if "original" not in told:
        parts.append("no original to compare with")
    return f"collapsed ends at {_seeded(own)}. " + "; ".join(parts).capitalize() + "."


def standing(group: Group, control: str) -> str:
    """'higher' or 'lower' where the intervals are apart; '' where there is nothing to compare."""
    own, other = group.final["collapsed"], group.final[control]
    if not own.seeds or not other.seeds:
        return ""
    if not own.bounded or not other.bounded:
        return "one seed, no interval"
    if not own.apart(other):
        return "intervals overlap"
    return "higher" if own.value > other.value else "lower"


def _caution(group: Group, control: str) -> str:
    """Few seeds may part by chance, whatever their intervals say."""
    own, other = group.final["collapsed"], group.final[control]
    p = group.p_value(control)
    if own.bounded and other.bounded and own.apart(other) and p > 1 - intervals.LEVEL:
        return f" (yet p = {p:.2g}: {own.seeds} seeds against {other.seeds} may part by chance)"
    return ""


def _kept(group: Group) -> str:
    kept = group.kept("collapsed")
    return f" ({kept:.1%} of the parameters)" if np.isfinite(kept) else ""


def _seeded(final: Estimate) -> str:
    return str(final) if final.bounded else f"{final} (one seed)"
