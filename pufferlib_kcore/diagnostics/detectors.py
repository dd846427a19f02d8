"""Detectors: each asks a run's metrics about one way to fail, and says since when, and by what numbers.

A detector is a function of a Run: a Seen where it failed so, None where it did not, and a sentence where the
metrics do not say. It reads names of `records.ALIASES` and `diagnosis/..`, as many as there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pufferlib_kcore.diagnostics.records import Records
from pufferlib_kcore.diagnostics.references import References
from pufferlib_kcore.diagnostics.signals import early, filled, late, mostly, noise, since, smooth, sustained
from pufferlib_kcore.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """All of the detectors' numbers. `benchmarks/detection` chooses them, on runs that it does not report."""

    shortest: int = 8  # epochs below which only what is not finite is judged
    width: int = 5  # epochs of a running median
    rows: int = 3  # in a row, for which something must hold
    skill: float = 0.1  # part of the best return's gain over blind, below which nothing was learned
    skilled: float = 0.3  # times |blind| above blind, from which on something was learned
    fall: float = 0.3  # part of the gain that is lost where a return has fallen
    sure: float = 0.05  # relative entropy below which actions are decided
    alike: float = 0.02  # action diversity [nats, or deviations] below which all states are one
    apart: float = 0.15  # approx_kl [nats], a running median, above which updates are too large
    leap: float = 1.0  # approx_kl [nats] of a single epoch above which it was
    clipped: float = 0.6  # share of ratios outside the clip, a running median, above which they are, too
    still: float = 1e-7  # approx_kl below which nothing moves
    gradient: float = 30.0  # times its running median above which a gradient's norm is too large
    vanished: float = 1e-6  # of a gradient's norm, of its early median, below which it is gone
    scale: float = 10.0  # times the largest return so far above which values are out of scale
    growth: float = 20.0  # of the value loss, over the largest until `width` epochs before
    explains: float = 0.8  # explained variance above which a larger loss is of larger returns
    asleep: float = 0.3  # share of dormant units by which plasticity has suffered
    dead: float = 0.9  # share of dead units with which nothing is represented
    rank: float = 0.25  # of its best effective rank, below which a representation has collapsed
    same: float = 0.1  # of its best action diversity, below which it tells states apart no more
    sank: float = 0.7  # of the first tasks' best return, below which late tasks' is less
    gap: float = 0.3  # part of the return's range between evaluation and training
    steep: float = 0.6  # part of the gain that is lost within few epochs where a task changed
    changes: int = 3  # of the task, without which nothing is said of plasticity


@dataclass(frozen=True, kw_only=True)
class Seen:
    """onset, told: places in the records"""

    severity: str
    onset: int
    told: int
    confidence: float
    evidence: dict[str, float]
    advice: str


@dataclass(frozen=True)
class Run:
    """A run's metrics, and what detectors ask of them again and again."""

    records: Records
    references: References | None
    t: Thresholds

    def __len__(self) -> int:
        return len(self.records)

    def says(self, *names: str) -> str | None:
        """Why it cannot be judged: no such metric, or too few epochs."""
        missing = [name for name in names if name not in self.records]
        if missing:
            return f"there is no {missing[0]}"
        return f"{len(self)} epochs are too few" if len(self) < self.t.shortest else None

    @cached_property
    def returns(self) -> np.ndarray:
        return smooth(self.records["episode_return"], self.t.width)

    @cached_property
    def noise(self) -> float:
        return noise(self.records["episode_return"])

    @cached_property
    def blind(self) -> float:
        """The return without skill: of the references, else of the run's first epochs, or its worst tenth."""
        if self.references is not None:
            return self.references.blind
        first, known = early(self.records["episode_return"]), self.returns[np.isfinite(self.returns)]
        return min(first, float(np.percentile(known, 10))) if len(known) else first

    @cached_property
    def best(self) -> np.ndarray:
        """The best running median so far; at least the return without skill."""
        return np.maximum.accumulate(np.maximum(filled(self.returns), self.blind))

    @cached_property
    def gain(self) -> np.ndarray:
        """What was gained over the return without skill, at best, so far; never nothing."""
        least = max(1e-9, 3 * self.noise, 0.02 * abs(self.blind))
        return np.maximum(self.best - self.blind, least)

    def fallen(self, part: float) -> np.ndarray:
        """Where so large a part of the gain is lost.  (epochs,) of bool"""
        return self.best - self.returns > np.maximum(part * self.gain, 2 * self.noise)

    @property
    def unskilled(self) -> np.ndarray:
        """Where the return is not above what needs no look at the observations."""
        margin = self.t.skill * max(abs(self.blind), float(self.gain[-1]))
        return self.returns <= self.blind + max(margin, self.noise)


Answer = Seen | str | None
DETECTORS: Registry[Callable[[Run], Answer]] = Registry("detector")


@DETECTORS.register("nan")
def nan(run: Run) -> Answer:
    """A loss or an indicator that was written as NaN or infinity."""
    known = {n: i for n, i in run.records.odd.items() if not n.startswith(("environment/", "episode_"))}
    if not known:
        return None
    name = min(known, key=lambda n: known[n])
    where = known[name]
    return Seen(
        severity="critical",
        onset=where,
        told=where,
        confidence=1.0,
        evidence={f"epoch at which {name} is not finite": float(run.records["epoch"][where])},
        advice="go back to the last checkpoint that is finite, with a smaller learning rate and a bound on "
        "the gradient's norm; look for a division or a logarithm of 0 in rewards and observations",
    )


@DETECTORS.register("gradient_pathology")
def gradient_pathology(run: Run) -> Answer:
    """Updates that move the policy too far, or not at all, though it is asked to learn.

    approx_kl above t.leap once, or its running median above t.apart, or that of clipfrac above t.clipped; or
    a gradient that outgrew all before it t.gradient times, where the value loss does not say why; or one that
    vanishes.
    """
    t, r = run.t, run.records
    if why := run.says():
        return why
    if not {"approx_kl", "gradient_norm", "clipfrac"} & set(r.columns):
        return "there is neither approx_kl, clipfrac nor gradient_norm"
    kl, clip, norm = np.abs(r["approx_kl"]), r["clipfrac"], r["gradient_norm"]
    far = (kl > t.leap) | (smooth(kl, t.width) > t.apart) | (smooth(clip, t.width) > t.clipped)
    if far.any():
        large = int(far.argmax())
        told = {
            "approx_kl": float(np.nanmax(kl[large:])),
            "clipfrac": float(np.nanmax(clip[large:], initial=0)),
        }
        return Seen(
            severity="high",
            onset=large,
            told=large,
            confidence=_beyond(told["approx_kl"], t.apart),
            evidence={name: value for name, value in told.items() if math.isfinite(value)},
            advice="a smaller --train.learning-rate, fewer --train.update-epochs, or a --train.target-kl",
        )
    if "gradient_norm" in r:
        where = sustained(_outgrown(norm, t, t.gradient) & ~_outgrown(r["value_loss"], t, t.growth), t.rows)
        if where is not None:
            before = float(np.nanmax(norm[: max(1, where - t.width)]))
            return Seen(
                severity="high",
                onset=where,
                told=where + t.rows - 1,
                confidence=_beyond(float(np.nanmax(norm[where:]) / before), t.gradient),
                evidence={"gradient_norm": float(np.nanmax(norm[where:])), "before": before},
                advice="a smaller --train.max-grad-norm and --train.learning-rate, rewards scaled to 1",
            )
        gone = since(filled(norm) < t.vanished * max(early(norm), 1e-30))
        if gone is not None and len(run) - gone >= t.rows:
            return Seen(
                severity="medium",
                onset=gone,
                told=min(gone + t.rows, len(run) - 1),
                confidence=0.9,
                evidence={"gradient_norm": late(norm), "early": early(norm)},
                advice="look whether anything is left to learn from: rewards that vary, units that are not "
                "dead, a learning rate above 0",
            )
    return None


@DETECTORS.register("value_explosion")
def value_explosion(run: Run) -> Answer:
    """A value loss t.growth times the largest until t.width epochs before, for as long, and not explained by
    larger returns (explained variance below t.explains); or values t.scale times the largest return."""
    t, r = run.t, run.records
    if why := run.says("value_loss"):
        return why
    loss, ev = filled(r["value_loss"]), smooth(r["explained_variance"], t.width)
    holds = _outgrown(loss, t, t.growth) & ~(ev > t.explains)
    if "diagnosis/value_mean" in r:
        size = np.abs(filled(r["diagnosis/value_mean"])) + filled(r["diagnosis/value_std"])
        returns = np.maximum.accumulate(np.abs(np.nan_to_num(r["episode_return"])))
        known = np.cumsum(np.isfinite(r["episode_return"])) >= t.width
        holds |= known & (size > t.scale * np.maximum(returns, max(1.0, abs(run.blind))))
    where = sustained(holds, t.width)
    if where is None:
        return None
    before = float(np.max(loss[: max(1, where - t.width)]))
    return Seen(
        severity="critical" if late(loss) > t.growth**2 * before else "high",
        onset=where,
        told=where + t.width - 1,
        confidence=_beyond(float(loss[where:].max() / before), t.growth),
        evidence={
            "value_loss": float(loss[where:].max()),
            "before": before,
            **({"explained_variance": late(ev)} if "explained_variance" in r else {}),
        },
        advice="rewards scaled to about 1, --train.clip-vloss True, a smaller learning rate",
    )


@DETECTORS.register("policy_collapse")
def policy_collapse(run: Run) -> Answer:
    """Actions are decided, or all states are one to the policy, and it is no better than blind for it.

    One action that dominates is no collapse where the return is above that of every constant policy, nor
    where it has not fallen.
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
    if not found:
        return "there is neither entropy nor diagnosis/action_diversity"
    sure = found.get("relative_entropy", found.get("entropy", np.zeros(len(run), bool)))
    alike = found.get("action_diversity", np.ones(len(run), bool))
    learned = run.best[-1] - run.blind > t.skill * max(abs(run.blind), run.noise)
    lost = run.fallen(t.fall) if learned else np.zeros(len(run), bool)
    where = since(mostly(sure & (lost | run.unskilled) & (alike | lost), 2 * t.width + 1))
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


@DETECTORS.register("no_learning")
def no_learning(run: Run) -> Answer:
    """To the end no better than without skill, and never was: which is no collapse."""
    t = run.t
    if why := run.says("episode_return"):
        return why
    margin = max(t.skilled * abs(run.blind), 3 * run.noise / t.width**0.5, 1e-9)
    if sustained(run.returns > run.blind + margin, 2 * t.width) is not None:
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


@DETECTORS.register("nonstationarity")
def nonstationarity(run: Run) -> Answer:
    """The task changed: the return falls within few epochs, without an update that explains it."""
    t, r = run.t, run.records
    if why := run.says("episode_return"):
        return why
    drops = _drops(run)
    kl = np.abs(np.nan_to_num(r["approx_kl"]))
    calm = [i for i in drops if not (kl[max(0, i - t.rows) : i + 1] > t.apart).all()]
    back = [i for i in calm if _recovers(run, i)]
    if not back:
        return None
    return Seen(
        severity="medium" if len(back) < 3 else "high",
        onset=back[0],
        told=min(back[0] + t.width, len(run) - 1),
        confidence=min(1.0, 0.6 + 0.1 * len(back)),
        evidence={"falls": float(len(back)), "fall": float(_fall(run, back[0])), "gain": float(run.gain[-1])},
        advice="give the policy what changes as an observation, or memory; keep it plastic with "
        "--break-symmetry 0.3; do not anneal the learning rate to 0",
    )


@DETECTORS.register("plasticity_loss")
def plasticity_loss(run: Run) -> Answer:
    """After changes of the task less and less is reached, or after one next to nothing ever again."""
    t, r = run.t, run.records
    if why := run.says("episode_return"):
        return why
    drops = _drops(run)
    if not drops:
        return None
    cuts = [0, *drops, len(run)]
    peaks = [float(np.max(run.returns[a:b])) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
    third = max(1, len(run) // 3)
    first, last = (float(np.percentile(part, 90)) for part in (run.returns[:third], run.returns[-third:]))
    gained = first - run.blind
    if gained <= max(5 * run.noise / t.width**0.5, t.skilled * abs(run.blind)):
        return None
    never = drops[0] < len(run) / 2 and last - run.blind < t.fall * gained
    raw = filled(run.records["episode_return"]) - run.blind
    means = [float(np.mean(part)) for part in (raw[:third], raw[-third:])]
    if not never and (len(drops) < t.changes or means[1] > t.sank * means[0]):
        return None
    told = {
        name: late(r[f"diagnosis/{name}"])
        for name in ("dormant", "gradient_dormant", "effective_rank", "weight_norm")
        if f"diagnosis/{name}" in r
    }
    below = [i for i, p in zip(cuts[1:], peaks[1:], strict=False) if p - run.blind < t.sank * gained]
    onset = below[0] if below else len(run) - third
    return Seen(
        severity="high",
        onset=onset,
        told=min(onset + t.width, len(run) - 1),
        confidence=_beyond(t.sank * gained, max(last - run.blind, 1e-9)),
        evidence={"first tasks": first, "last tasks": last, "blind": run.blind, **told},
        advice="--break-symmetry 0.3, or --break.method redo with --break-symmetry 0.025; an L2 pull to the "
        "start (--break.method l2-init)",
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
    where = since(holds & (run.fallen(t.fall) | run.unskilled))
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
        confidence=_beyond(float(best[-1] - true[-1]), max(t.fall * spread, floor)),
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
    floor = 3 * max(run.noise, noise(evaluated[known]))
    apart = trained[known] - evaluated[known] > max(t.gap * span, floor)
    where = since(apart)
    if where is None or len(apart) - where < t.rows:
        return None
    onset = int(np.flatnonzero(known)[where])
    return Seen(
        severity="high",
        onset=onset,
        told=int(np.flatnonzero(known)[where + t.rows - 1]),
        confidence=_beyond(float(np.median(trained[known][where:] - evaluated[known][where:])), t.gap * span),
        evidence={"episode_return": late(trained), "eval_return": late(evaluated)},
        advice="evaluate with the statistics that normalize observations in training, and draw actions as "
        "there; compare on the same environment settings",
    )


def _outgrown(x: np.ndarray, t: Thresholds, times: float) -> np.ndarray:
    """Where it is so many times the largest until t.width epochs before, twice over.  (epochs,) of bool"""
    x, lag = filled(x), min(2 * t.width, len(x))
    before = np.concatenate([np.full(lag, np.inf), np.maximum.accumulate(x)[: len(x) - lag]])
    return x > times * np.maximum(before, 1e-12)


def _drops(run: Run) -> list[int]:
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


def _fall(run: Run, i: int) -> float:
    r = filled(run.records["episode_return"])
    return float(np.median(r[max(0, i - run.t.width) : i]) - np.median(r[i : i + 2]))


def _recovers(run: Run, i: int) -> bool:
    """Whether half of the fall is made good afterwards: the policy could learn what changed."""
    r = filled(run.records["episode_return"])
    low = i + int(np.argmin(r[i : i + run.t.width]))
    later = smooth(r[low:], run.t.rows)
    return bool(np.max(later) - r[low] > 0.5 * _fall(run, i))


def _beyond(value: float, threshold: float) -> float:
    """0.5 at the threshold, towards 1 far beyond it."""
    if not math.isfinite(value):
        return 1.0
    return 1 - 0.5 * min(1.0, threshold / value) if value > 0 else 0.5
