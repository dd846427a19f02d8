"""Tables and a figure of the runs that `plasticity.py train` made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from plasticity import STREAMS, area, last

from pufferlib_kcore.analysis.intervals import improvement, interquartile_mean
from pufferlib_kcore.text import markdown

RIVALS = ("redo", "regrama", "cbp", "swr", "l2-init", "shrink-perturb")
OURS = ("fibers", "fibers, activations")


def report(runs: list[dict[str, Any]], out: Path) -> None:
    lines = ["# Plasticity", ""]
    for stream in STREAMS:
        some = [r for r in runs if r["stream"] == stream]
        if some:
            lines += of_stream(stream, some)
            figure(stream, some, out)
    text = "\n".join(lines) + "\n"
    (out / "report.md").write_text(text)
    print(text)


def of_stream(stream: str, runs: list[dict[str, Any]]) -> list[str]:
    s, methods = STREAMS[stream], dict.fromkeys(r["method"] for r in runs)
    by = {m: sorted((r for r in runs if r["method"] == m), key=lambda r: r["seed"]) for m in methods}
    rows = []
    for method, own in by.items():
        rows.append(
            [
                method,
                "" if own[0]["number"] is None else own[0]["number"],
                len(own),
                str(interquartile_mean([area(r) for r in own])),
                str(interquartile_mean([last(r) for r in own])),
                *(
                    _late(own, name, s.epochs)
                    for name in ("dormant", "effective_rank", "weight_norm", "fibers")
                ),
                f"{np.mean([r['recycled'] for r in own]):.0f}",
            ]
        )
    header = [
        "method",
        "its number",
        "seeds",
        "area",
        "last task",
        "dormant",
        "eff. rank",
        "weight norm",
        "fibers",
    ]
    lines = [
        f"## {stream}: {s.tasks} tasks of {s.epochs} epochs",
        "",
        "Interquartile means [95% intervals]; area:",
    ]
    lines += ["the mean return from the second task on; the other columns are means over the last task.", ""]
    lines += markdown([*header, "made fresh"], rows)
    lines += ["", *lost(by)]
    rivals = [m for m in by if m in RIVALS]
    lines += ["", *against(by, rivals), ""]
    ends = [r for m in OURS if m in by for r in by[m] if "return_end" in r]
    if ends:
        kept = np.mean([r["params_collapsed"] / r["params"] for r in ends])
        before, after = (interquartile_mean([r[n] for r in ends]) for n in ("return_end", "return_collapsed"))
        lines += [
            f"Symmetry breaking, then collapse at 0.3, no retraining: {kept:.0%} of the parameters, return "
            f"{before} before and {after} after, on the last task.",
            "",
        ]
    return lines


def lost(by: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What a stream loses against fresh networks, and how much of that each method has back."""
    if not {"nothing", "fresh"} <= by.keys():
        return []
    areas = {m: interquartile_mean([area(r) for r in own]).value for m, own in by.items()}
    gap = areas["fresh"] - areas["nothing"]
    below = improvement([[area(r) for r in by["fresh"]]], [[area(r) for r in by["nothing"]]])
    lines = [f"Lost: {gap / areas['fresh']:.0%} of a fresh network's area; P(fresh above nothing) = {below}."]
    back = [
        f"{m} {(a - areas['nothing']) / gap:.0%}" for m, a in areas.items() if m not in ("nothing", "fresh")
    ]
    lines += [f"Of that is back with {', '.join(back)}."] if back and gap > 0 else []
    if "distilled" in by:
        lines += [
            "distilled: each task begins with a fresh network that answers as the old one does. What it does "
            "not have back is lost to the old policy, not to the old weights."
        ]
    return lines


def against(by: dict[str, list[dict[str, Any]]], rivals: list[str]) -> list[str]:
    """Probabilities that symmetry breaking's area is above another's."""
    if not rivals:
        return []
    best = max(rivals, key=lambda m: interquartile_mean([area(r) for r in by[m]]).value)
    lines = []
    for ours in (m for m in OURS if m in by):
        for other in ("nothing", best):
            p = improvement([[area(r) for r in by[ours]]], [[area(r) for r in by[other]]])
            lines.append(f"- P({ours} above {other}{', the best rival' if other == best else ''}) = {p}")
    return lines


def _late(runs: list[dict[str, Any]], name: str, epochs: int) -> str:
    values = [v for r in runs for v in r[name][-epochs:] if v is not None]
    return f"{np.mean(values):.3g}" if values else ""


def figure(stream: str, runs: list[dict[str, Any]], out: Path) -> None:
    """The mean return of each task, by method; fresh networks dashed."""
    from matplotlib.figure import Figure

    s = STREAMS[stream]
    drawn = Figure(figsize=(9, 4), layout="constrained")
    axes = drawn.subplots()
    for method in dict.fromkeys(r["method"] for r in runs):
        own = [
            np.array([np.nan if v is None else v for v in r["returns"]]).reshape(s.tasks, s.epochs)
            for r in runs
            if r["method"] == method
        ]
        mean = np.nanmean(np.stack(own), (0, 2))
        style = {"ls": "--", "color": "gray"} if method == "fresh" else {}
        style |= {"color": "black", "lw": 2.5} if method == "nothing" else {}
        style |= {"lw": 2.5} if method in OURS else {}
        axes.plot(range(1, s.tasks + 1), mean, label=method, **style)
    axes.set(xlabel="task", ylabel="mean return of its epochs", title=stream)
    axes.legend(fontsize=8, ncols=2)
    drawn.savefig(out / f"{stream}.png", dpi=100)
