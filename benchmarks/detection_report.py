"""What the detectors say of the runs that `detection.py train` made, beside the published rules."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from detection import CHOOSING, key_of
from scipy import stats

from pufferlib_kcore.diagnostics.detectors import DETECTORS
from pufferlib_kcore.diagnostics.findings import diagnose
from pufferlib_kcore.diagnostics.records import Records
from pufferlib_kcore.diagnostics.references import References
from pufferlib_kcore.text import markdown
from pufferlib_kcore.training.watching import may_say

ALSO = {"plasticity_loss": ("nonstationarity",)}  # what is there too, and neither right nor wrong to say
STEP = 5  # epochs from look to look, where a run is judged while it goes on
LEAST = 20
INDICATORS = (
    *("entropy", "relative_entropy", "action_diversity", "policy_variance", "churn", "dominance", "dormant"),
    *("dead", "gradient_dormant", "oui", "effective_rank", "srank", "stable_rank", "feature_rank"),
    *("weight_norm", "probe_gradient_norm"),
)
PLAIN = ("approx_kl", "clipfrac", "explained_variance", "value_loss", "gradient_norm")


def returns(run: dict[str, Any], name: str = "episode_return") -> np.ndarray:
    return np.array([r[name] for r in run["records"] if isinstance(r.get(name), (int, float))], float)


def late(x: np.ndarray) -> float:
    return float(np.median(x[-max(1, len(x) // 10) :])) if len(x) else float("nan")


def references_of(run: dict[str, Any], known: dict[str, dict[str, float]]) -> References:
    proxy = run["kind"] == "reward_hacking" or run["name"] == "shaped"
    return References(**known[key_of(run["world"], run["kind"] if proxy else "")])


def failed(run: dict[str, Any], healthy: dict[str, float], losses: dict[str, float], known: dict) -> bool:
    """Whether the run really failed as it was meant to: by its returns, beside those of healthy runs.

    healthy, losses: late returns and value losses of each world's healthy runs.
    """
    blind, good = references_of(run, known).blind, healthy[run["world"]]
    x, kind = returns(run), run["kind"]
    if kind == "healthy":
        return late(x) > blind + 0.5 * (good - blind)  # that it is
    if kind == "nan":
        return run["crashed"] is not None
    if kind == "reward_hacking":
        true = returns(run, "environment/true_return")
        best = max(np.median(true[i : i + 5]) for i in range(len(true) - 5))
        down = late(true) < best - 0.3 * (best - min(true.min(), best - 1e-9))
        return bool(down and late(x) > np.median(x[:5]) + 0.7 * (x.max() - np.median(x[:5])))
    if kind == "value_explosion":
        return late(returns(run, "value_loss")) > 100 * losses[run["world"]]
    if kind == "evaluation_gap":
        return late(returns(run, "evaluation/episode_return")) < late(x) - 0.3 * abs(late(x) - blind)
    if kind == "nonstationarity":
        at = int(0.5 * len(x)) if run["name"].startswith("once") else int(0.3 * len(x))
        before, after = np.median(x[at - 5 : at]) - blind, np.min(x[at : at + 10]) - blind
        return bool(after < 0.5 * before and late(x) > blind + 0.3 * (good - blind))  # and learned again
    if kind == "plasticity_loss":
        peaks = [x[i : i + len(x) // 16].max() for i in range(0, len(x), max(1, len(x) // 16))]
        return float(np.median(peaks[-5:])) < blind + 0.7 * (peaks[0] - blind)
    return late(x) < blind + 0.5 * (good - blind)


def judged(run: dict[str, Any], known: dict, epochs: int | None = None, references: bool = True) -> set[str]:
    records = Records.of(run["records"][:epochs])
    found = diagnose(records, references_of(run, known) if references else None)
    return {one.kind for one in found.findings}


def published(run: dict[str, Any]) -> set[str]:
    """The rules of the failure lab's detectors (window 100, here all epochs), as far as they can be asked."""
    r = Records.of(run["records"])
    found = set()
    entropy, loss, x = r["entropy"], r["value_loss"], r["episode_return"]
    if np.nanmean(entropy[-20:]) < 0.1 or np.nanmean(r["diagnosis/dominance"][-20:]) > 0.95:
        found.add("policy_collapse")
    if r.odd or np.isinf(loss).any():
        found.add("nan")
    if np.nanmax(loss) > 1000 or np.nanmax(np.abs(np.nan_to_num(r["diagnosis/value_mean"]))) > 1000:
        found.add("value_explosion")
    if "true_return" in r and len(x) > 20:
        ok = np.isfinite(x) & np.isfinite(r["true_return"])
        if (
            np.std(r["true_return"][ok][-100:]) > 0
            and np.corrcoef(x[ok][-100:], r["true_return"][ok][-100:])[0, 1] < -0.3
        ):
            found.add("reward_hacking")
    known = x[np.isfinite(x)]
    flips = np.count_nonzero(np.diff(np.sign(np.diff(known[:: max(1, len(known) // 10)]))))
    if np.var(known / max(1e-9, np.abs(known).max())) > 2 or flips >= 3:
        found.add("nonstationarity")
    return found


def table(runs: list[dict[str, Any]], said: list[set[str]]) -> list[list[Any]]:
    rows = []
    for kind in DETECTORS:
        of = [r["kind"] == kind for r in runs]
        free = [kind in ALSO.get(r["kind"], ()) or (kind == "nan" and bool(r["crashed"])) for r in runs]
        hit = sum(kind in s for s, own in zip(said, of, strict=True) if own)
        wrong = sum(kind in s and not own and not f for s, own, f in zip(said, of, free, strict=True))
        total = sum(of)
        rows.append(
            [
                kind,
                f"{hit}/{total}",
                _part(hit, total),
                f"{hit}/{hit + wrong}",
                _part(hit, hit + wrong),
            ]
        )
    return rows


def _part(k: int, n: int) -> str:
    """k / n, and its 95% interval (Wilson)."""
    if not n:
        return "-"
    low, high = stats.binomtest(k, n).proportion_ci(method="wilson")
    return f"{k / n:.2f} [{low:.2f}, {high:.2f}]"


def lead(run: dict[str, Any], known: dict) -> tuple[int | None, int | None]:
    """(epoch by which it was told while it went on, epoch at which half of the best gain was lost)"""
    rows = run["records"]
    told = next((n for n in range(LEAST, len(rows) + 1, STEP) if run["kind"] in judged(run, known, n)), None)
    x, blind = returns(run), references_of(run, known).blind
    smooth = np.array([np.median(x[max(0, i - 4) : i + 1]) for i in range(len(x))])
    best = np.maximum.accumulate(smooth)
    lost = (best - smooth > 0.5 * np.maximum(best - blind, 1e-9)) & (best > blind + 0.1 * abs(blind))
    return told, int(lost.argmax()) if lost.any() else None


def correlations(runs: list[dict[str, Any]], healthy: dict, known: dict, out: Path) -> list[list[Any]]:
    """Spearman's rank correlation of late indicators with the late return, 0 blind and 1 healthy."""
    from matplotlib.figure import Figure

    rng, rows, drawn = np.random.default_rng(0), [], []
    plain = [r for r in runs if r["kind"] not in ("reward_hacking",) and r["name"] != "shaped"]
    blind = [references_of(r, known).blind for r in plain]
    gains = [healthy[r["world"]] - low for r, low in zip(plain, blind, strict=True)]
    score = np.array([(late(returns(r)) - low) / g for r, low, g in zip(plain, blind, gains, strict=True)])
    for name in (*(f"diagnosis/{n}" for n in INDICATORS), *PLAIN):
        x = np.array([late(returns(r, name)) for r in plain])
        ok = np.isfinite(x) & np.isfinite(score)
        if ok.sum() < 20:
            continue
        a, b = x[ok], score[ok]
        rho = stats.spearmanr(a, b).statistic
        picks = rng.integers(0, len(a), (999, len(a)))
        low, high = np.nanpercentile([stats.spearmanr(a[p], b[p]).statistic for p in picks], [2.5, 97.5])
        rows.append([name, len(a), f"{rho:.2f} [{low:.2f}, {high:.2f}]"])
        drawn.append((name, rho, low, high))
    drawn.sort(key=lambda one: one[1])
    figure = Figure(figsize=(7, 0.28 * len(drawn) + 1), layout="constrained")
    axes = figure.subplots()
    for i, (_name, rho, low, high) in enumerate(drawn):
        axes.plot([low, high], [i, i], color="tab:blue", lw=2)
        axes.plot(rho, i, "o", color="tab:blue")
    axes.set_yticks(range(len(drawn)), [name for name, *_ in drawn])
    axes.axvline(0, color="gray", lw=1)
    axes.set(xlabel="Spearman's correlation with the return, 95% bootstrap interval", xlim=(-1, 1))
    figure.savefig(out / "indicators.png", dpi=100)
    return sorted(rows, key=lambda row: -abs(float(str(row[2]).split()[0])))


def report(runs: list[dict[str, Any]], known: dict[str, dict[str, float]], out: Path) -> None:
    plain = [r for r in runs if r["kind"] == "healthy" and r["name"] != "shaped"]
    healthy = {
        w: float(np.median([late(returns(r)) for r in plain if r["world"] == w]))
        for w in {r["world"] for r in plain}
    }
    losses = {
        w: float(np.median([late(returns(r, "value_loss")) for r in plain if r["world"] == w]))
        for w in healthy
    }
    true = [r for r in runs if failed(r, healthy, losses, known)]
    lines = ["# Detection", ""]
    dropped = Counter(r["kind"] for r in runs) - Counter(r["kind"] for r in true)
    lines += [
        f"{len(runs)} runs; {len(true)} did what they were meant to. Left out, as it did not show: "
        + (", ".join(f"{n} of {k}" for k, n in dropped.items()) or "none")
        + ".",
        "",
    ]
    for half, title in ((False, "Chosen on: seeds below"), (True, "Reported: seeds from")):
        some = [r for r in true if (r["seed"] >= CHOOSING) == half]
        if not some:
            continue
        for name, judge in (
            ("detectors", lambda r: judged(r, known)),
            ("without references", lambda r: judged(r, known, references=False)),
            ("published rules", published),
        ):
            said = [judge(r) for r in some]
            everything = [
                not s if r["kind"] == "healthy" else r["kind"] in s for s, r in zip(said, some, strict=True)
            ]
            alarms = sum(bool(s) for s, r in zip(said, some, strict=True) if r["kind"] == "healthy")
            n = sum(r["kind"] == "healthy" for r in some)
            lines += [f"## {title} {CHOOSING}: {name}", ""]
            lines += markdown(["kind", "found", "recall", "right", "precision"], table(some, said))
            right = _part(sum(everything), len(everything))
            lines += [
                "",
                f"False alarms: {alarms} of {n} healthy runs. Of all runs, rightly judged: {right}.",
                "",
            ]
            if name == "detectors":
                for s, r in zip(said, some, strict=True):
                    want = set() if r["kind"] == "healthy" else {r["kind"]}
                    if s - set(ALSO.get(r["kind"], ())) != want:
                        print(half, r["kind"], r["world"], r["name"], r["seed"], "->", sorted(s))
        if half:
            lines += leads(some, known)
    lines += ["## Performance against indicators", ""]
    lines += markdown(
        ["late indicator", "runs", "Spearman with the late return"], correlations(true, healthy, known, out)
    )
    text = "\n".join(lines) + "\n"
    (out / "report.md").write_text(text)
    (out / "summary.json").write_text(json.dumps({"runs": len(runs), "used": len(true)}) + "\n")
    print(text)


def watched_kinds(run: dict[str, Any], known: dict) -> set[str]:
    """What the `watch` companion would have said of a run while it went on."""
    rows, seen = run["records"], set()
    for n in range(LEAST, len(rows) + 1, STEP):
        found = diagnose(Records.of(rows[:n]), references_of(run, known)).findings
        seen |= {f.kind for f in found if f.kind != "no_learning" or may_say(f, n / len(rows))}
    return seen


def leads(some: list[dict[str, Any]], known: dict) -> list[str]:
    rows = []
    for kind in DETECTORS:
        pairs = [lead(r, known) for r in some if r["kind"] == kind]
        both = [fall - told for told, fall in pairs if told is not None and fall is not None]
        found = sum(told is not None for told, _ in pairs)
        rows.append([kind, f"{found}/{len(pairs)}", f"{np.median(both):.0f}" if both else "-"])
    watched = [r for r in some if r["kind"] == "healthy"]
    alarms = sum(bool(watched_kinds(r, known)) for r in watched)
    lines = ["## While they go on: a look every 5 epochs, from epoch 20 on", ""]
    lines += markdown(
        ["kind", "told", "epochs before half of the gain was lost (median; below 0: after)"], rows
    )
    return [*lines, "", f"False alarms in {alarms} of {len(watched)} healthy runs.", ""]
