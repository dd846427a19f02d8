"""Suite report: every agent with every reward, by its own reward and by one score, beside the published."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

from pufferlib_kcore.analysis.report import render
from pufferlib_kcore.analysis.tables import Table
from pufferlib_kcore.store import atomic
from pufferlib_kcore.text import markdown, readable

# Mean own returns over five rewards, one seed, of the published program's report.
PUBLISHED = {
    "ppo": 143.84,
    "dqn": 142.74,
    "always_switch": 142.34,
    "aggressive": 85.56,
    "adaptive": 36.92,
    "burnout_threshold": 17.45,
    "random": 1.81,
    "always_stay": -8.45,
    "conservative": -10.99,
}
PUBLISHED_REWARDS = 5
Results = Sequence[Mapping[str, Any]]


def write(folder: Path, results: Results) -> None:
    """RESULTS_REPORT.md, comparison.png and index.html of a suite's results."""
    parts = {
        "table": table(results),
        "by_agent": by_agent(results),
        "by_reward": by_reward(results),
        "findings": findings(results),
    }
    said = sentences(results)
    lines = ["# Agents and rewards", "", *(f"{line}\n" for line in said), "![](comparison.png)", ""]
    for title, rows in zip(
        ("Every agent with every reward", "By agent", "By reward", "Findings"), parts.values(), strict=True
    ):
        lines += [f"## {title}", "", *markdown([str(x) for x in rows[0]], rows[1:]), ""]
    atomic.write(folder / "RESULTS_REPORT.md", "\n".join(lines).encode())
    png = io.BytesIO()
    figure(results).savefig(png, format="png", dpi=110)
    atomic.write(folder / "comparison.png", png.getvalue())
    tables = {
        name: Table(dict(zip(head, row, strict=True)) for row in rows)
        for name, (head, *rows) in parts.items()
    }
    page = render("suite.html", title="Agents and rewards", said=said, png=png.getvalue(), **tables)
    atomic.write(folder / "index.html", page.encode())


def table(results: Results) -> list[list[Any]]:
    """Best return that is meant first."""
    head = ["agent", "reward", "own return", "return that is meant", "of the way to the optimum"]
    head += ["commonest action", "findings"]
    rows = []
    for one in sorted(results, key=lambda r: -means(r, "true_return").mean()):
        p = one["protocol"]
        shares = [share(one, x) for x in means(one, "true_return")]
        rows.append(
            [
                p["agent_type"],
                p["reward_type"],
                interval(means(one, "episode_return")),
                interval(means(one, "true_return")),
                f"{np.mean(shares):.1%}",
                f"{means(one, 'dominance').mean():.1%}",
                ", ".join(f"{kind} {n}" for kind, n in kinds(one).items()) or "none",
            ]
        )
    return [head, *rows]


def by_agent(results: Results) -> list[list[Any]]:
    """Means over rewards, seed by seed; and the published mean of own returns."""
    rows = []
    for agent, own in grouped(results, "agent_type").items():
        true = np.mean([means(one, "true_return") for one in own], 0)
        paid = np.mean([means(one, "episode_return") for one in own], 0)
        published = PUBLISHED.get(agent) if len(own) == PUBLISHED_REWARDS else None
        met = "" if published is None else "met" if close(paid, published) else "not met"
        way = np.mean([share(own[0], x) for x in true])
        rows.append([agent, interval(paid), published, met, interval(true), f"{way:.1%}", true.mean()])
    rows.sort(key=lambda row: -row.pop())
    head = [
        "agent",
        "own return",
        "published",
        "published is",
        "return that is meant",
        "of the way to the optimum",
    ]
    return [head, *rows]


def by_reward(results: Results) -> list[list[Any]]:
    """What learners come to with each reward, on the one score."""
    head = [
        "reward",
        *(learners := [a for a in ("dqn", "ppo", "a2c") if grouped(results, "agent_type").get(a)]),
    ]
    rows = []
    for reward, own in grouped(results, "reward_type").items():
        cells = {one["protocol"]["agent_type"]: interval(means(one, "true_return")) for one in own}
        rows.append([reward, *(cells.get(agent, "") for agent in learners)])
    return [head, *rows]


def findings(results: Results) -> list[list[Any]]:
    """How many trainings of each learner show each failure."""
    found: dict[tuple[str, str], int] = Counter()
    trained: dict[str, int] = Counter()
    for one in results:
        agent = one["protocol"]["agent_type"]
        for seed in one["seeds"]:
            trained[agent] += bool(seed["unjudged"] or seed["findings"] or seed["curve"])
            for finding in seed["findings"]:
                found[finding["kind"], agent] += 1
    rows = [[kind, agent, f"{n} of {trained[agent]}"] for (kind, agent), n in sorted(found.items())]
    return [["failure", "agent", "trainings"], *(rows or [["none", "", ""]])]


def sentences(results: Results) -> list[str]:
    """What the tables come to."""
    r, p = results[0]["references"], results[0]["protocol"]
    seeds = sorted({seed["seed"] for one in results for seed in one["seeds"]})
    regime = p["env_params"].get("regime", "stable")
    said = [
        f"{len(results)} experiments in the {regime} regime, seeds {', '.join(map(str, seeds))}, "
        f"{p['n_episodes']} episodes of training, {p['eval_episodes']} of evaluation. Intervals are 95% (t, "
        "over seeds; of a rule, whose seeds differ in their episodes alone).",
        "The return that is meant is that of the base reward, s - b + 0.1 [b < 0.5], whatever an agent was "
        f"paid. Chance earns {r['true_uniform']:.4g} of it, the best constant action "
        f"{max(r['true_constants']):.4g}, the optimum {r['optimum']:.4g} ± {r['optimum_error']:.2g} "
        "(dynamic programming).",
    ]
    if max(r["true_constants"]) > 0.98 * r["optimum"]:
        said.append(
            "So one action, always, is optimal here: that it is nearly all that a trained agent does is no "
            "collapse, and no learner can be told from it by its return."
        )
    if len(results) == len(PUBLISHED) * PUBLISHED_REWARDS and regime == "stable":
        flagged = sum(bool(kinds(one)) for one in results)
        said.append(
            "The published table is of own returns, which have five units: sparse_v1 pays 10 at most, "
            "short_term_v1 176. Its program found policy collapse in 41 of 45 experiments, rules and the "
            f"optimum among them; experiments with a finding of any kind here: {flagged}. What it calls "
            "success of DQN and PPO is that of one action, which a rule has as well."
        )
    return said


def figure(results: Results) -> Figure:
    """Returns that are meant, by agent, a mark for each reward."""
    groups = grouped(results, "agent_type")
    names = sorted(groups, key=lambda a: np.mean([means(one, "true_return").mean() for one in groups[a]]))
    rewards = list(grouped(results, "reward_type"))
    drawn = Figure(figsize=(8, 1.5 + 0.35 * len(names)), layout="constrained")
    FigureCanvasAgg(drawn)
    axis = drawn.add_subplot()
    for k, reward in enumerate(rewards):
        own = [one for one in results if one["protocol"]["reward_type"] == reward]
        places = [names.index(one["protocol"]["agent_type"]) + 0.12 * (k - len(rewards) / 2) for one in own]
        x = [means(one, "true_return") for one in own]
        half = [half_width(v) for v in x]
        axis.errorbar([v.mean() for v in x], places, xerr=half, fmt="osD^vP*X"[k % 8], ms=5, label=reward)
    r = results[0]["references"]
    for value, label in ((r["optimum"], "optimum"), (r["true_uniform"], "chance")):
        axis.axvline(value, color="#777777", ls="--" if label == "optimum" else ":", label=label)
    axis.set_yticks(range(len(names)), names)
    axis.set_xlabel("return of the base reward, an episode")
    axis.legend(fontsize=8, loc="center right")
    return drawn


def grouped(results: Results, key: str) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for one in results:
        found.setdefault(one["protocol"][key], []).append(one)
    return found


def means(one: Mapping[str, Any], name: str) -> np.ndarray:
    """(seeds,)"""
    return np.array([seed[name] for seed in one["seeds"]], float)


def kinds(one: Mapping[str, Any]) -> Counter[str]:
    return Counter(finding["kind"] for seed in one["seeds"] for finding in seed["findings"])


def share(one: Mapping[str, Any], true_return: float) -> float:
    r = one["references"]
    return float((true_return - r["true_uniform"]) / (r["optimum"] - r["true_uniform"]))


def half_width(x: np.ndarray) -> float:
    """Half of the 95% interval of a mean (t); 0 of one number."""
    n = len(x)
    return float(stats.t.ppf(0.975, n - 1) * x.std(ddof=1) / n**0.5) if n > 1 else 0.0


def interval(x: np.ndarray) -> str:
    """12.3 ± 0.4"""
    return readable(float(x.mean())) + (f" ± {readable(half_width(x))}" if len(x) > 1 else "")


def close(x: np.ndarray, published: float) -> bool:
    """Within the interval, or 5 points: the published table's ten episodes of one seed vary by that."""
    return abs(float(x.mean()) - published) < max(5.0, half_width(x))
