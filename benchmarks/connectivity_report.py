"""Tables and a figure of what `connectivity.py` ran."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pufferlib_kcore.analysis.intervals import interquartile_mean
from pufferlib_kcore.text import markdown

Row = dict[str, Any]


def report(forks: list[Row], runs: list[Row], out: Path) -> None:
    """Write report.md and forks.png, and print the former."""
    text = ["# Linear mode connectivity", ""]
    if forks:
        text += ["## Forks of SAC and DDPG", "", EXPLAINED, "", table(of_forks(forks)), ""]
        text += [said(forks), ""]
    if runs:
        text += ["## Forks of PPO, recurrent", "", table(of_ppo(runs)), ""]
        text += [
            "## From a policy to its collapse",
            "",
            COLLAPSED,
            "",
            table(of_valleys(runs)),
            "",
        ]
    (out / "report.md").write_text("\n".join(text))
    if forks:
        figure(forks).savefig(out / "forks.png", dpi=120)
    print("\n".join(text))


EXPLAINED = (
    "Children's returns are means over seeds and children. The barrier is in parts of the ends' height over "
    "a random policy, of those pairs whose ends are at least 5% of the task's best return above it; "
    "'barriers' counts the lines whose interval leaves 0."
)
COLLAPSED = (
    "Collapsed half way through training to at most a tenth of the parameters (auto), trained on to the end, "
    "both lifted to full size. Barriers in units of return, [95% interval]; 'returns': of the line's ends."
)


def table(rows: list[list[Any]]) -> str:
    return "\n".join(markdown(rows[0], rows[1:]))


def grouped(rows: list[Row], *keys: str) -> dict[tuple, list[Row]]:
    found: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        found[tuple(row[key] for key in keys)].append(row)
    return found


def learned(fork: Row, best: dict[str, float]) -> bool:
    """Whether both children stand well above chance."""
    chance = fork["random_reward"]
    least = chance + 0.05 * (best[fork["env"]] - chance)
    return min(fork["fork1_reward"], fork["fork2_reward"]) > least


def bests(forks: list[Row]) -> dict[str, float]:
    return {
        env: max(max(f["fork1_reward"], f["fork2_reward"]) for f in rows)
        for (env,), rows in grouped(forks, "env").items()
    }


def of_forks(forks: list[Row]) -> list[list[Any]]:
    best = bests(forks)
    rows: list[list[Any]] = [
        [
            "task",
            "algorithm, buffers",
            "forked at",
            "seeds",
            "children's return",
            "learned",
            "barrier",
            "barriers",
        ]
    ]
    for (env, algo, strategy, point), some in sorted(
        grouped(forks, "env", "algo", "strategy", "fork_point").items()
    ):
        good = [f for f in some if learned(f, best)]
        returns = [f[k] for f in some for k in ("fork1_reward", "fork2_reward")]
        heights = [f["relative"] for f in good if f["relative"] is not None]
        init = " (before the first update)" if some[0]["of_initialisation"] else ""
        rows.append(
            [
                *(env, f"{algo}, {strategy}", f"{point:.0%}{init}", len(some), f"{np.mean(returns):.0f}"),
                f"{len(good)}/{len(some)}",
                f"{np.mean(heights):.2f}" if heights else "-",
                f"{sum(f['barrier']['low'] > 0 for f in good)}/{len(good)}",
            ]
        )
    return rows


def said(forks: list[Row]) -> str:
    """Aligned beside unaligned, and the mean with its interval by fork point over all that learned."""
    good = [f for f in forks if learned(f, bests(forks))]
    moved = [f for f in good if f["aligned"]]
    lines = []
    for (point,), some in sorted(grouped(good, "fork_point").items()):
        heights = np.array([f["relative"] for f in some if f["relative"] is not None])
        if len(heights) > 1:
            e = interquartile_mean(heights)
            lines.append(f"forked at {point:.0%} {e.value:.2f} [{e.low:.2f}, {e.high:.2f}] of {len(heights)}")
    text = (
        "Barriers of all that learned, in heights over chance, interquartile means: " + "; ".join(lines) + "."
    )
    if moved:
        pairs = [(f["barrier"]["value"], f["aligned"]["barrier"]["value"]) for f in moved]
        lower = sum(b < a for a, b in pairs)
        text += (
            f" Weight matching moved neurons of {len(moved)} of {len(good)} pairs; the barrier was lower "
            f"in {lower} of them (medians {np.median([a for a, _ in pairs]):.4g} and "
            f"{np.median([b for _, b in pairs]):.4g})."
        )
    else:
        text += f" Weight matching moved no neuron of any of the {len(good)} pairs."
    return text


def of_ppo(runs: list[Row]) -> list[list[Any]]:
    rows: list[list[Any]] = [
        ["task", "forked at", "seeds", "children's return", "barrier [widest interval]", "barriers"]
    ]
    flat = [{**f, "task": r["task"]} for r in runs for f in r["forks"]]
    for (task, point), some in sorted(grouped(flat, "task", "fork_point").items()):
        returns = [f[k] for f in some for k in ("fork1_reward", "fork2_reward")]
        b = [f["barrier"] for f in some]
        interval = f"[{min(x['low'] for x in b):.3g}, {max(x['high'] for x in b):.3g}]"
        mean = f"{np.mean([x['value'] for x in b]):.3g} {interval}"
        rows.append(
            [task, f"{point:.0%}", len(some), f"{np.mean(returns):.4g}", mean, sum(x["low"] > 0 for x in b)]
        )
    return rows


def of_valleys(runs: list[Row]) -> list[list[Any]]:
    rows: list[list[Any]] = [["task, seed", "from", "to", "returns", "weights apart", "barrier"]]
    for run in sorted(runs, key=lambda r: (r["task"], r["seed"])):
        valley = run["valley"]
        part = valley["collapsed_params"] / valley["params"]
        for line in valley["lines"]:
            b = line["barrier"]
            ends = f"{line['fork1_reward']:.4g}, {line['fork2_reward']:.4g}"
            barrier = f"{b['value']:.3g} [{b['low']:.3g}, {b['high']:.3g}]"
            name = f"{run['task']}, {run['seed']} ({part:.0%} of the parameters)"
            rows.append([name, line["from"], line["to"], ends, f"{line['distance']:.3g}", barrier])
    return rows


def figure(forks: list[Row]) -> Figure:
    best, groups = bests(forks), grouped(forks, "env", "algo")
    made = Figure(figsize=(4.2 * len(groups), 3.4), layout="constrained")
    FigureCanvasAgg(made)
    axes = made.subplots(1, len(groups), squeeze=False)[0]
    for ax, ((env, algo), rows) in zip(axes, sorted(groups.items()), strict=True):
        for (strategy,), own in sorted(grouped(rows, "strategy").items()):
            good = [f for f in own if learned(f, best) and f["relative"] is not None]
            ax.plot(
                [f["fork_point"] for f in good], [f["relative"] for f in good], "o", alpha=0.7, label=strategy
            )
        ax.axhline(0.05, color="#777777", lw=0.8, ls="--")
        ax.set(title=f"{env}, {algo}", xlabel="forked at, part of training", xlim=(0, 0.6))
        ax.set_ylabel("barrier / height over chance")
        ax.legend(fontsize=7)
    return made
