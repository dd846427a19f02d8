"""Tasks: what changes under a policy, what it no longer learns, and what it is paid for."""

from __future__ import annotations

import numpy as np

from pufferlib_kcore.diagnostics.detectors.run import DETECTORS, Answer, Run, Seen, beyond
from pufferlib_kcore.diagnostics.signals import filled, late, noise, since, smooth


@DETECTORS.register("nonstationarity")
def nonstationarity(run: Run) -> Answer:
    """The task changed: the return falls within few epochs, values are surprised by it, and it is made good.

    Where updates were too large, or the value loss is not t.surprise times the largest shortly before, a
    return that falls is an unsteady training's.
    """
    t, r = run.t, run.records
    if why := run.says("episode_return"):
        return why
    drops = drops_of(run)
    kl = np.abs(np.nan_to_num(r["approx_kl"]))
    calm = [i for i in drops if not (kl[max(0, i - t.rows) : i + 1] > t.apart).all()]
    back = [i for i in calm if surprised(run, i) and recovers(run, i)]
    if not back:
        return None
    return Seen(
        severity="medium" if len(back) < 3 else "high",
        onset=back[0],
        told=min(back[0] + t.width, len(run) - 1),
        confidence=min(1.0, 0.6 + 0.1 * len(back)),
        evidence={
            "falls": float(len(back)),
            "fall": float(fall_at(run, back[0])),
            "gain": float(run.gain[-1]),
        },
        advice="give the policy what changes as an observation, or memory; keep it plastic with "
        "--break-symmetry 0.3; do not anneal the learning rate to 0",
    )


@DETECTORS.register("plasticity_loss")
def plasticity_loss(run: Run) -> Answer:
    """What was reached before the task first changed is not reached again, in t.patience times as long.

    The best tenth of the running medians since then is below t.sank of it. Of a task that changes again and
    again it is that after which less is reached for the first time.
    """
    t, r = run.t, run.records
    if why := run.says("episode_return"):
        return why
    drops = drops_of(run)
    if not drops or len(run) - drops[0] < t.patience * drops[0]:
        return None
    first = float(np.max(run.returns[: drops[0]])) - run.blind
    again = float(np.percentile(run.returns[drops[0] + t.width :], 90)) - run.blind
    if again > t.sank * first:
        return None
    told = {
        name: late(r[f"diagnosis/{name}"])
        for name in ("dormant", "gradient_dormant", "effective_rank", "weight_norm")
        if f"diagnosis/{name}" in r
    }
    return Seen(
        severity="high",
        onset=drops[0],
        told=min(int(drops[0] * (1 + t.patience)), len(run) - 1),
        confidence=beyond(t.sank * first, max(again, 1e-9)),
        evidence={"first": first + run.blind, "best since": again + run.blind, "blind": run.blind, **told},
        advice="--break-symmetry 0.3, or --break.method redo with --break-symmetry 0.025; an L2 pull to the "
        "start (--break.method l2-init)",
    )


@DETECTORS.register("reward_hacking")
def reward_hacking(run: Run) -> Answer:
    """The return, a proxy, rises while what it stands for falls."""
    t = run.t
    if "true_return" not in run.records:
        return "there is no true metric: name it with --watch.true-metric, or report true_return"
    if why := run.says("episode_return"):
        return why
    true = smooth(run.records["true_return"], t.width)
    best = np.maximum.accumulate(true)
    spread = max(float(best[-1] - true.min()), 1e-9)
    floor = 3 * noise(run.records["true_return"])
    falls = best - true > max(t.fall * spread, floor)
    rising = run.returns >= run.best - np.maximum(t.skill * run.gain, run.noise)
    start = int(np.argmax(best == best[-1]))
    risen = run.returns - run.returns[start] > -run.noise
    where = since(falls & (rising | risen))
    if where is None or len(run) - where < t.rows:
        return None
    return Seen(
        severity="critical" if true[-1] < true[: max(1, len(run) // 5)].max() else "high",
        onset=min(start + 1, where),
        told=min(where + t.rows, len(run) - 1),
        confidence=beyond(float(best[-1] - true[-1]), max(t.fall * spread, floor)),
        evidence={
            "episode_return": float(run.returns[-1]),
            "true_return": float(true[-1]),
            "best true_return": float(best[-1]),
        },
        advice="the checkpoint at which the true metric was best; a reward that pays for it, or a bound on "
        "how far the policy may leave it",
    )


@DETECTORS.register("evaluation_gap")
def evaluation_gap(run: Run) -> Answer:
    """Evaluated otherwise than trained: frozen statistics, or greedy actions where they must be drawn."""
    t, r = run.t, run.records
    if "eval_return" not in r:
        return "there is no eval_return"
    if why := run.says("episode_return"):
        return why
    evaluated, trained = r["eval_return"], run.returns
    known = np.isfinite(evaluated)
    if known.sum() < t.rows:
        return f"{int(known.sum())} evaluations are too few"
    span = max(float(np.nanmax(trained) - min(np.nanmin(trained), run.blind)), float(run.gain[-1]), 1e-9)
    floor = 2 * max(run.noise, noise(evaluated[known]))
    gap = smooth(trained[known] - evaluated[known], t.rows)
    apart = gap > max(t.gap * span, floor)
    where = since(apart)
    if where is None or len(apart) - where < t.rows:
        return None
    onset = int(np.flatnonzero(known)[where])
    return Seen(
        severity="high",
        onset=onset,
        told=int(np.flatnonzero(known)[where + t.rows - 1]),
        confidence=beyond(float(np.median(trained[known][where:] - evaluated[known][where:])), t.gap * span),
        evidence={
            "episode_return": late(trained),
            "eval_return": late(evaluated),
            **({"with drawn actions": late(r["eval_return_drawn"])} if "eval_return_drawn" in r else {}),
        },
        advice="evaluate with the statistics that normalize observations in training, and draw actions as "
        "there; compare on the same environment settings",
    )


def drops_of(run: Run) -> list[int]:
    """Places before which the return, well above blind, lost t.steep of that within t.rows epochs."""
    t, r = run.t, filled(run.records["episode_return"])
    least = max(t.skilled * abs(run.blind), 5 * run.noise)
    found: list[int] = []
    for i in range(t.width, len(run) - t.rows + 1):
        before, after = np.median(r[i - t.width : i]), np.median(r[i : i + t.rows])
        above = before - run.blind
        falls = above > max(least, t.fall * run.gain[i]) and before - after > t.steep * above
        if falls and (not found or i - found[-1] > t.width):
            found.append(i)
    return found


def fall_at(run: Run, i: int) -> float:
    r = filled(run.records["episode_return"])
    return float(np.median(r[max(0, i - run.t.width) : i]) - np.median(r[i : i + 2]))


def surprised(run: Run, i: int) -> bool:
    """Whether the value loss leaps about a place; taken for granted where nobody wrote it.

    A fall is seen up to t.rows epochs late, as its medians tell it: the leap may be as much earlier.
    """
    t, loss = run.t, run.records["value_loss"]
    if not np.isfinite(loss[max(0, i - t.width) : i + t.rows]).any():
        return True
    usual = smooth(loss, t.rows)
    return any(
        np.median(filled(loss)[k : k + t.rows]) > t.surprise * np.max(usual[max(0, k - t.width) : k])
        for k in range(max(1, i - t.rows), i + 1)
    )


def recovers(run: Run, i: int) -> bool:
    """Whether half of the fall is made good afterwards: the policy could learn what changed."""
    r = filled(run.records["episode_return"])
    low = i + int(np.argmin(r[i : i + run.t.width]))
    later = smooth(r[low:], run.t.rows)
    return bool(np.max(later) - r[low] > 0.5 * fall_at(run, i))
