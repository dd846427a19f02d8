"""Findings: what went wrong with a run, since when, how sure that is, and what to try."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pufferlib_kcore.diagnostics.detectors import DETECTORS, Run, Seen, Thresholds
from pufferlib_kcore.diagnostics.records import Records
from pufferlib_kcore.diagnostics.references import References
from pufferlib_kcore.text import aligned

# What each failure brings with it: where both are found, and the cause began no later (by a tenth of the
# run), the other is named as its symptom alone. Those in ALWAYS are whenever they begin.
EXPLAINS: dict[str, tuple[str, ...]] = {
    "nan": ("evaluation_gap", "no_learning"),
    "gradient_pathology": (
        *("nan", "value_explosion", "policy_collapse", "representation_collapse", "no_learning"),
        *("plasticity_loss", "nonstationarity", "evaluation_gap"),
    ),
    "value_explosion": (
        *("nan", "policy_collapse", "representation_collapse", "no_learning", "plasticity_loss"),
        "nonstationarity",
    ),
    "reward_hacking": ("evaluation_gap", "policy_collapse"),
    "policy_collapse": ("no_learning", "representation_collapse", "plasticity_loss"),
    "plasticity_loss": ("nonstationarity", "representation_collapse", "no_learning"),
    "representation_collapse": ("no_learning", "nonstationarity"),
}
ALWAYS = ("no_learning", "nonstationarity")  # the first is told at the end alone, the second comes with many


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One failure of a run."""

    kind: str  # one of DETECTORS
    severity: str  # low, medium, high, critical
    onset: int  # the epoch from which on it shows
    said: int  # the epoch by which that could be told
    confidence: float  # 0 to 1: how far beyond its threshold the evidence is, not a probability
    evidence: Mapping[str, float]
    advice: str  # what to try
    symptoms: tuple[str, ...] = field(default=())  # kinds that were found too, and that it explains

    def to_plain(self) -> dict[str, Any]:
        return {**asdict(self), "evidence": dict(self.evidence), "symptoms": list(self.symptoms)}

    def __str__(self) -> str:
        """`policy_collapse (high, since epoch 12, confidence 0.9): entropy 0.01, .. Try: ..`"""
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in self.evidence.items())
        also = f" Explains: {', '.join(self.symptoms)}." if self.symptoms else ""
        head = f"{self.kind} ({self.severity}, since epoch {self.onset}, confidence {self.confidence:.2f})"
        return f"{head}: {numbers}.{also} Try: {self.advice}"


@dataclass(frozen=True)
class Diagnosis:
    """What was found, the most severe first; and which kinds could not be judged, and why."""

    findings: tuple[Finding, ...]
    unjudged: Mapping[str, str]

    def __str__(self) -> str:
        if not self.findings:
            said = "nothing went wrong that these metrics show"
        else:
            said = "\n".join(map(str, self.findings))
        if self.unjudged:
            said += "\nnot judged:\n" + aligned([[f"  {k}", why] for k, why in self.unjudged.items()])
        return said


SEVERITIES = ("low", "medium", "high", "critical")


def diagnose(
    records: Records,
    references: References | None = None,
    *,
    only: Collection[str] = (),
    thresholds: Thresholds | None = None,
    explain: bool = True,
) -> Diagnosis:
    """Ask every detector (or `only` those named) about a run's metrics.

    references  returns of the uniform and of the best constant policy: what decides whether one dominating
                action, or a return, is a failure; without them the run's own first epochs stand in
    explain     name symptoms with their cause alone
    Raises UserError for a detector that there is not.
    """
    run = Run(records, references, thresholds or Thresholds())
    findings, unjudged = [], {}
    for kind in only or DETECTORS:
        found = DETECTORS[kind](run)
        if isinstance(found, str):
            unjudged[kind] = found
        elif isinstance(found, Seen):
            findings.append(_finding(kind, found, run))
    findings.sort(key=lambda one: (-SEVERITIES.index(one.severity), one.onset))
    return Diagnosis(tuple(_explained(findings, len(records)) if explain else findings), unjudged)


def _finding(kind: str, seen: Seen, run: Run) -> Finding:
    epochs = run.records["epoch"]
    return Finding(
        kind=kind,
        severity=seen.severity,
        onset=int(epochs[seen.onset]),
        said=int(epochs[min(seen.told, len(epochs) - 1)]),
        confidence=min(1.0, max(0.0, seen.confidence)),
        evidence=seen.evidence,
        advice=seen.advice,
    )


def _explained(findings: list[Finding], epochs: int) -> list[Finding]:
    """Only those that no other explains, with what they explain."""
    slack = max(1, epochs // 10)
    by_kind = {one.kind: one for one in findings}
    cause: dict[str, str] = {}
    for kind, one in by_kind.items():
        for other in EXPLAINS.get(kind, ()):
            if other not in by_kind or cause.get(kind) == other:
                continue
            if other in ALWAYS or one.onset <= by_kind[other].onset + slack:
                cause.setdefault(other, kind)
    roots = {kind: kind for kind in by_kind}
    for kind in by_kind:
        root, seen = kind, {kind}
        while root in cause and cause[root] not in seen:
            root = cause[root]
            seen.add(root)
        roots[kind] = root
    kept = []
    for kind, one in by_kind.items():
        if roots[kind] == kind:
            symptoms = tuple(k for k, root in roots.items() if root == kind and k != kind)
            kept.append(replace(one, symptoms=symptoms))
    return kept
