"""Watching: a companion that asks the detectors about a run after each epoch, and warns, stops or breaks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pufferlib_kcore.diagnostics.findings import SEVERITIES, Finding, diagnose
from pufferlib_kcore.diagnostics.records import Records
from pufferlib_kcore.diagnostics.references import References
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.settings import nearest
from pufferlib_kcore.store import Run, metrics
from pufferlib_kcore.training.breaking import ASKED
from pufferlib_kcore.training.companions import Companion, Epoch, Said, companions
from pufferlib_kcore.training.metrics import keyed

ACTS = ("high", "critical")  # severities for which a run is stopped, or broken
EVERY = 5  # epochs from one look at all detectors to the next, and at least a twentieth of the run so far
LEAST = 20  # epochs before the first
LATE = 0.9  # of the run, before which nobody is told that nothing was learned, unless nothing moves
MENDS = ("policy_collapse", "plasticity_loss", "representation_collapse")  # what breaking symmetry may mend


@companions.register("watch")
class Watching(Companion):
    """Findings go to findings.jsonl, each kind once; and on_failure says what else they lead to.

    warn            nothing else
    stop            the training ends, saved, with the first that is high or critical
    break-symmetry  the `break` companion acts at once, where that may mend it
    true_metric     what should rise with the return
    watch/findings: how many kinds so far; watch/severity: of the worst, 1 low to 4 critical.
    """

    def __init__(self, *, on_failure: str = "warn", true_metric: str | None = None):
        if on_failure not in ("warn", "stop", "break-symmetry"):
            raise UserError(f"on_failure is {on_failure!r}: expected warn, stop or break-symmetry")
        self.on_failure, self.true_metric = on_failure, true_metric
        self.records: list[dict[str, Any]] = []
        self.said: dict[str, str] = {}  # kind -> severity
        self.next = LEAST  # number of epochs at which the detectors are asked next

    def start(self, epoch: Epoch) -> None:
        run = Run(epoch.folder)
        self.records = [r for r in run.metrics() if r.get("epoch", 0) <= epoch.number]
        metrics.truncate(run.findings_path, epoch.number) if run.findings_path.is_file() else None

    def after(self, epoch: Epoch) -> Said:
        self.records.append({**keyed(epoch.metrics), "epoch": epoch.number})
        if len(self.records) < self.next:
            return self._said()
        self.next = len(self.records) + max(EVERY, len(self.records) // 20)
        if self.true_metric is not None and not any(self.true_metric in record for record in self.records):
            near = nearest(self.true_metric, self.records[-1]) or ", ".join(sorted(self.records[-1]))
            return Said(stop=f"nothing reports {self.true_metric}, named by --watch.true-metric: try {near}")
        records = Records.of(renamed(self.records, self.true_metric))
        known = References.load(Run(epoch.folder).references_path)
        found = [one for one in diagnose(records, known).findings if one.kind not in self.said]
        new = [one for one in found if one.kind != "no_learning" or may_say(one, epoch.part)]
        for one in new:
            self.said[one.kind] = one.severity
            metrics.append(Run(epoch.folder).findings_path, {"epoch": epoch.number, **one.to_plain()})
        return self._said(new)

    def _said(self, new: list[Finding] | tuple[()] = ()) -> Said:
        acute = [one for one in new if one.severity in ACTS]
        worst = max((SEVERITIES.index(s) + 1 for s in self.said.values()), default=0)
        found = {"watch/findings": float(len(self.said)), "watch/severity": float(worst)}
        if self.on_failure == "break-symmetry" and any(one.kind in MENDS for one in acute):
            found[ASKED] = 1.0
        stop = str(acute[0]) if acute and self.on_failure == "stop" else None
        return Said(found, stop=stop)

    def state_dict(self) -> dict[str, Any]:
        return {"said": dict(self.said), "next": self.next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.said, self.next = dict(state["said"]), int(state["next"])


def may_say(finding: Finding, part: float) -> bool:
    """Whether it can be said of a run by now that nothing was learned.  part: of the run that is done"""
    return part >= LATE or SEVERITIES.index(finding.severity) >= SEVERITIES.index("high")


def renamed(records: list[dict[str, Any]], true_metric: str | None) -> list[dict[str, Any]]:
    """With the named metric as true_return."""
    if true_metric is None:
        return records
    return [{**record, "true_return": record.get(true_metric)} for record in records]
