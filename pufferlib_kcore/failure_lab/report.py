"""Report: one experiment in words: hypothesis, answer, numbers by seed, what detectors found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

from pufferlib_kcore.text import markdown, readable


def report(plain: Mapping[str, Any]) -> str:
    """Markdown of result.json's data."""
    p, seeds = plain["protocol"], plain["seeds"]
    world = " ".join([p["env_type"], *(f"{k}={v}" for k, v in p["env_params"].items())])
    lines = [f"# {p['name']}", ""]
    if p.get("description"):
        lines += [p["description"], ""]
    lines += [
        f"**Hypothesis.** {p.get('hypothesis') or 'none was stated.'}",
        "",
        f"**{plain['answer']['verdict'].capitalize()}.** {plain['answer']['why']}.",
        "",
        f"{p['agent_type']} in {world}, reward {p['reward_type']}, seeds {', '.join(map(str, p['seeds']))}; "
        f"{p['eval_episodes']} episodes each.",
        "",
    ]
    head = ["seed", "return", "return that is meant", "commonest action", "findings"]
    rows = [
        [
            one["seed"],
            spread(one["returns"]),
            spread(one["true_returns"]),
            f"{one['dominance']:.1%}",
            ", ".join(f["kind"] for f in one["findings"]) or "none",
        ]
        for one in seeds
    ]
    lines += [*markdown(head, rows), "", *references(plain), ""]
    found = [(one["seed"], f) for one in seeds for f in one["findings"]]
    if found:
        lines += ["## Findings", ""]
        lines += [
            f"- seed {seed}: {f['kind']} ({f['severity']}, since epoch {f['onset']}): "
            + ", ".join(f"{name} {value:.4g}" for name, value in f["evidence"].items())
            + (f"; explains {', '.join(f['symptoms'])}" if f["symptoms"] else "")
            + f". Try: {f['advice']}"
            for seed, f in found
        ]
        lines.append("")
    return "\n".join(lines)


def references(plain: Mapping[str, Any]) -> list[str]:
    """What the world pays without skill and at best, as lines of a table."""
    r = plain["references"]
    rows: list[list[Any]] = [["uniform", r["uniform"], r["true_uniform"]]]
    for action, (own, true) in enumerate(zip(r["constants"], r["true_constants"], strict=True)):
        rows.append([f"always action {action}", own, true])
    if r["optimum"] is not None:
        rows.append(["optimum", "", f"{r['optimum']:.4g} ± {r['optimum_error']:.2g}"])
    return markdown(["without skill, and at best", "return", "return that is meant"], rows)


def spread(returns: list[float]) -> str:
    """`12.3 ± 0.4`: mean and half of its 95% interval (t, over episodes)."""
    x = np.asarray(returns)
    half = stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5 if len(x) > 1 else float("nan")
    return f"{readable(float(x.mean()))} ± {readable(float(half))}"
