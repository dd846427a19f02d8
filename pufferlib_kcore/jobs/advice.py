"""Advice: where a threshold merges next to nothing, which ones would, and the search that needs none."""

from __future__ import annotations

from pufferlib_kcore.graph.report import Report
from pufferlib_kcore.graph.thresholds import ALL, thresholds_for
from pufferlib_kcore.graph.traced import Traced
from pufferlib_kcore.settings import CollapseSettings
from pufferlib_kcore.text import aligned

AUTO = "--collapse auto --collapse.target-params 0.2"


def advice(settings: CollapseSettings, traced: Traced, report: Report) -> list[str]:
    """Lines for people, with options that are ready to be given; none where enough has merged."""
    c, before, after = settings, report.params_before, report.params_after
    if c.searches or after < ALL * before:
        return []
    found = {}
    if c.colors != "activations":
        found = thresholds_for(traced, colors=c.colors, round_to=c.round_to)
    options = {f"--collapse {t:g}": f"keeps {part:.1%} of the parameters" for t, part in found.items()}
    options[AUTO] = "keeps 20%, chosen by what the policy computes while it plays"
    return [
        f"{1 - after / before:.1%} of the parameters went: few neurons are so alike. "
        "In place of its threshold, give the same command",
        *aligned(options.items(), indent="    ").splitlines(),
    ]
