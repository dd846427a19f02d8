"""Updates: what is not finite, moves too far, or is out of scale."""

from __future__ import annotations

import math

import numpy as np

from pufferlib_kcore.diagnostics.detectors.run import DETECTORS, Answer, Run, Seen, Thresholds, beyond
from pufferlib_kcore.diagnostics.signals import early, filled, late, since, smooth, sustained


@DETECTORS.register("nan")
def nan(run: Run) -> Answer:
    """A loss or an indicator that was written as NaN or infinity.

    Explained variance is 0 / 0 where returns do not vary, as in the few steps of an A2C update: no failure.
    """
    odd = run.records.odd.items()
    known = {n: i for n, i in odd if not n.startswith(("environment/", "episode_"))}
    known = {n: i for n, i in known.items() if not n.endswith("explained_variance")}
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
    if (why := run.says()) and not run.records.odd:  # the few epochs before a loss is NaN say why it is
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
            confidence=beyond(told["approx_kl"], t.apart),
            evidence={name: value for name, value in told.items() if math.isfinite(value)},
            advice="a smaller --train.learning-rate, fewer --train.update-epochs, or a --train.target-kl",
        )
    if "gradient_norm" in r:
        where = sustained(outgrown(norm, t, t.gradient) & ~outgrown(r["value_loss"], t, t.growth), t.rows)
        if where is not None:
            before = float(np.nanmax(norm[: max(1, where - t.width)]))
            return Seen(
                severity="high",
                onset=where,
                told=where + t.rows - 1,
                confidence=beyond(float(np.nanmax(norm[where:]) / before), t.gradient),
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
    holds = outgrown(loss, t, t.growth) & ~(ev > t.explains)
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
        confidence=beyond(float(loss[where:].max() / before), t.growth),
        evidence={
            "value_loss": float(loss[where:].max()),
            "before": before,
            **({"explained_variance": late(ev)} if "explained_variance" in r else {}),
        },
        advice="rewards scaled to about 1, --train.clip-vloss True, a smaller learning rate",
    )


def outgrown(x: np.ndarray, t: Thresholds, times: float) -> np.ndarray:
    """Where it is so many times the largest until t.width epochs before, twice over.  (epochs,) of bool"""
    x, lag = filled(x), min(2 * t.width, len(x))
    before = np.concatenate([np.full(lag, np.inf), np.maximum.accumulate(x)[: len(x) - lag]])
    return x > times * np.maximum(before, 1e-12)
