"""ExperimentComparator: results side by side: table, curves, failures, a report."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.failure_lab.report import spread
from pufferlib_kcore.failure_lab.runner import ExperimentResult
from pufferlib_kcore.settings import nearest
from pufferlib_kcore.text import markdown

METRICS = {
    "final_eval_reward": "episode_return",
    "true_return": "true_return",
    "episode_return": "episode_return",
}


class ExperimentComparator:
    """comparator.add_result("results/lab/one/result.json"), or a result."""

    def __init__(self) -> None:
        self.results: list[ExperimentResult] = []

    def add_result(self, result: ExperimentResult | str | Path) -> None:
        """Raises UserError, naming the file, where it is cut short or none."""
        found = result if isinstance(result, ExperimentResult) else ExperimentResult.load(result)
        self.results.append(found)

    def get_summary_table(self) -> str:
        """Markdown, the best return that is meant first."""
        rows = []
        for one in sorted(self.results, key=lambda r: -_mean(r, "true_return")):
            p, seeds = one.plain["protocol"], one.plain["seeds"]
            own, true = ([x for s in seeds for x in s[name]] for name in ("returns", "true_returns"))
            kinds = Counter(f["kind"] for f in one.detected_failures)
            told = ", ".join(f"{kind} ({n})" for kind, n in kinds.items()) or "none"
            rows.append(
                [
                    p["name"],
                    p["agent_type"],
                    p["reward_type"],
                    spread(own),
                    spread(true),
                    told,
                    one.answer.verdict,
                ]
            )
        head = ["experiment", "agent", "reward", "return", "return that is meant", "findings", "hypothesis"]
        return "\n".join(markdown(head, rows))

    def get_best_experiment(self, metric: str = "final_eval_reward") -> str:
        """The name of the one with the largest mean.  Raises UserError for a metric that there is not."""
        if metric not in METRICS:
            near = nearest(metric, METRICS)
            raise UserError(
                f"no metric {metric!r}: "
                + (f"did you mean {near}?" if near else f"take one of {', '.join(METRICS)}")
            )
        best = max(self._some(), key=lambda one: _mean(one, METRICS[metric]))
        return best.plain["protocol"]["name"]

    def plot_learning_curves(self, save_path: str | Path | None = None) -> Figure:
        """Mean returns that are meant over steps, at each one's checkpoints."""
        figure = _figure(7, 4)
        axis = figure.add_subplot()
        for one in self._some():
            by_steps: dict[int, list[float]] = {}
            for seed in one.plain["seeds"]:
                for place in seed["curve"]:
                    by_steps.setdefault(place["steps"], []).append(place["true_return"])
            steps = sorted(by_steps)
            means = [sum(by_steps[s]) / len(by_steps[s]) for s in steps]
            axis.plot(steps, means, marker="o", markersize=3, label=one.plain["protocol"]["name"])
        axis.set_xlabel("steps")
        axis.set_ylabel("return that is meant")
        axis.legend(fontsize=8)
        return _saved(figure, save_path)

    def plot_failure_comparison(self, save_path: str | Path | None = None) -> Figure:
        """How many findings of each kind."""
        kinds = sorted({f["kind"] for one in self._some() for f in one.detected_failures})
        figure = _figure(7, 1 + 0.4 * max(1, len(self.results)))
        axis = figure.add_subplot()
        names = [one.plain["protocol"]["name"] for one in self.results]
        left = [0] * len(names)
        for kind in kinds:
            counts = [sum(f["kind"] == kind for f in one.detected_failures) for one in self.results]
            axis.barh(names, counts, left=left, label=kind)
            left = [a + b for a, b in zip(left, counts, strict=True)]
        axis.set_xlabel("findings")
        if kinds:
            axis.legend(fontsize=8)
        return _saved(figure, save_path)

    def generate_comparison_report(self) -> str:
        answers = [f"- **{r.plain['protocol']['name']}**: {r.answer}" for r in self._some()]
        return "\n".join(["# Comparison", "", self.get_summary_table(), "", *answers, ""])

    def _some(self) -> list[ExperimentResult]:
        if not self.results:
            raise UserError("there is nothing to compare: add results first")
        return self.results


def _mean(result: ExperimentResult, name: str) -> float:
    values: list[Any] = [seed[name] for seed in result.plain["seeds"]]
    return float(sum(values) / len(values))


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _saved(figure: Figure, path: str | Path | None) -> Figure:
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure
