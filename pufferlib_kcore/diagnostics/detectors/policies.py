"""Policies: actions that are decided, states that are one to it, and nothing learned."""

from __future__ import annotations

import numpy as np

from pufferlib_kcore.diagnostics.detectors.run import DETECTORS, Answer, Run, Seen
from pufferlib_kcore.diagnostics.signals import early, filled, late, mostly, since, smooth, sustained


@DETECTORS.register("policy_collapse")
def policy_collapse(run: Run) -> Answer:
    """Actions are decided, or all states are one to the policy, and it is no better than blind for it.

    One action that dominates is no collapse where the return is above that of every constant policy, nor
    where it has not fallen, nor where it is the best that is known to be possible.
    """
    t, r = run.t, run.records
    if why := run.says("episode_return"):
        return why
    found = {}
    if "diagnosis/relative_entropy" in r:
        found["relative_entropy"] = filled(r["diagnosis/relative_entropy"]) < t.sure
    elif "entropy" in r and early(r["entropy"]) > 0:
        found["entropy"] = smooth(r["entropy"], t.rows) < t.sure * early(r["entropy"])
    if "diagnosis/action_diversity" in r:
        found["action_diversity"] = filled(r["diagnosis/action_diversity"]) < t.alike
    if not found and "entropy" in r:
        return (
            "an entropy that is 0 or less early on, of continuous actions, tells nothing by itself: train "
            "with --diagnose"
        )
    if not found:
        return "there is neither entropy nor diagnosis/action_diversity"
    sure = found.get("relative_entropy", found.get("entropy", np.zeros(len(run), bool)))
    alike = found.get("action_diversity", np.ones(len(run), bool))
    learned = run.best[-1] - run.blind > t.skill * max(abs(run.blind), run.noise)
    lost = run.fallen(t.fall) if learned else np.zeros(len(run), bool)
    poor = (lost | run.unskilled) & ~run.optimal
    where = since(mostly(sure & poor & (alike | lost), 2 * t.width + 1))
    if where is None or len(run) - where < t.rows:
        return None
    names = ("diagnosis/relative_entropy", "entropy", "diagnosis/action_diversity", "diagnosis/dominance")
    told = {name: late(r[name]) for name in names if name in r}
    return Seen(
        severity="high",
        onset=where,
        told=min(where + t.rows, len(run) - 1),
        confidence=0.95 if run.references else 0.7,
        evidence={**told, "episode_return": float(run.returns[-1]), "blind": run.blind},
        advice="a larger --train.ent-coef, a smaller learning rate, and the last checkpoint before it; "
        "--break-symmetry 0.3 gives neurons back",
    )


@DETECTORS.register("representation_collapse")
def representation_collapse(run: Run) -> Answer:
    """Features that no longer tell states apart, and a return that suffers: never by a rank alone."""
    t, r = run.t, run.records
    if why := run.says("episode_return"):
        return why
    if "diagnosis/effective_rank" not in r and "diagnosis/dead" not in r:
        return "there is neither diagnosis/effective_rank nor diagnosis/dead: train with --diagnose"
    holds = np.zeros(len(run), bool)
    if "diagnosis/effective_rank" in r:
        rank = filled(r["diagnosis/effective_rank"])
        holds |= rank < np.maximum(t.rank * np.maximum.accumulate(rank), 1.5)
    if "diagnosis/dead" in r:
        holds |= filled(r["diagnosis/dead"]) > t.dead
    if "diagnosis/action_diversity" in r:
        varied = filled(r["diagnosis/action_diversity"])
        best = np.maximum.accumulate(varied)
        decided = filled(r["diagnosis/relative_entropy"]) < t.sure
        holds |= (best > t.alike) & (varied < t.same * best) & ~decided
    where = since(holds & (run.fallen(t.fall) | run.unskilled) & ~run.optimal)
    if where is None or len(run) - where < t.rows:
        return None
    names = ("effective_rank", "dead", "dormant", "action_diversity")
    told = {name: late(r[f"diagnosis/{name}"]) for name in names if f"diagnosis/{name}" in r}
    return Seen(
        severity="high",
        onset=where,
        told=min(where + t.rows, len(run) - 1),
        confidence=0.8,
        evidence={**told, "episode_return": float(run.returns[-1]), "best": float(run.best[-1])},
        advice="a smaller learning rate, less weight decay, normalized layers; --break-symmetry 0.3",
    )


@DETECTORS.register("no_learning")
def no_learning(run: Run) -> Answer:
    """To the end no better than without skill, and never was: which is no collapse.

    Where no skill is needed for the best that is known to be possible, and that is reached, nothing failed.
    """
    t = run.t
    if why := run.says("episode_return"):
        return why
    margin = max(t.skilled * abs(run.blind), 3 * run.noise / t.width**0.5, 1e-9)
    if sustained(run.returns > run.blind + margin, 2 * t.width) is not None or late(run.optimal) > 0.5:
        return None
    kl = run.records["approx_kl"]
    evidence = {"episode_return": float(run.returns[-1]), "blind": run.blind}
    if "approx_kl" in run.records:
        evidence["approx_kl"] = late(np.abs(kl))
    still = evidence.get("approx_kl", 1.0) < t.still
    return Seen(
        severity="high" if still else "medium",
        onset=0,
        told=len(run) - 1,
        confidence=0.95 if run.references else 0.6,
        evidence=evidence,
        advice="look whether rewards reach the learner and vary (a learning rate above 0?), then more steps, "
        "a larger --train.ent-coef, a longer --train.bptt-horizon where memory is needed",
    )
