"""Callback: diagnoses, breaks symmetry and collapses while a model learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from pufferlib_kcore.diagnostics.look import fibers_of, look
from pufferlib_kcore.distributions import ActionDistribution
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.graph import Collapse, SymmetryBreaker
from pufferlib_kcore.integrations.sb3 import states, surgery


class KcoreCallback(BaseCallback):
    """`model.learn(.., callback=KcoreCallback(..))`; acts between rollouts, counted in the model's steps.

    diagnose_every  steps between looks at the policy, on recorded states: the metrics of `diagnostics.look`
                    and the number of fibers, in SB3's logger as kcore/..
    break_every     steps between steps of a `kcore.SymmetryBreaker`, in place; kcore/recycled counts
    collapse_at     collapse once so many steps are done, in place
    threshold       what counts as one neuron, for fibers and breaking; and for the collapse where nothing
                    else is given
    collapse        keywords of `sb3.collapse_`: {"threshold": "auto", "target_params": 0.2}
    breaker         keywords of `kcore.SymmetryBreaker`: {"max_kl": 0.01}. Targets are left alone: they track
                    their online networks as always
    collapsed       what became of each space, once it has collapsed; None before

    Raises UserError for numbers out of range.
    """

    def __init__(
        self,
        *,
        diagnose_every: int | None = None,
        break_every: int | None = None,
        collapse_at: int | None = None,
        threshold: float | Mapping[str, float] = 0.3,
        collapse: Mapping[str, Any] = {},
        breaker: Mapping[str, Any] = {},
        verbose: int = 0,
    ):
        super().__init__(verbose)
        for name, steps in (
            ("diagnose_every", diagnose_every),
            ("break_every", break_every),
            ("collapse_at", collapse_at),
        ):
            if steps is not None and steps < 1:
                raise UserError(f"{name} is {steps}: expected 1 or more steps, or None")
        self.diagnose_every, self.break_every, self.collapse_at = diagnose_every, break_every, collapse_at
        self.threshold, self.how, self.breaking = threshold, dict(collapse), dict(breaker)
        self.collapsed: Collapse | None = None
        self._next = {"diagnose": diagnose_every, "break": break_every}
        self._breaker: SymmetryBreaker | None = None
        self._before: ActionDistribution | None = None
        self._probe: tuple | None = None

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        """A rollout is behind the model, and what it learned from it: the policy may be another one now."""
        done = self.model.num_timesteps
        if self.collapse_at is not None and self.collapsed is None and done >= self.collapse_at:
            self.collapsed = surgery.collapse_(self.model, **{"threshold": self.threshold, **self.how})
            self._breaker, self._before, self._probe = None, None, None
            report = self.collapsed.report
            self.logger.record("kcore/params", float(report.params_after))
            if self.verbose:
                print(report)
        if self._due("break", self.break_every, done):
            self._break(done)
        if self._due("diagnose", self.diagnose_every, done):
            self._diagnose()

    def _due(self, what: str, every: int | None, done: int) -> bool:
        due = self._next[what]
        if every is None or due is None or done < due:
            return False
        self._next[what] = done - done % every + every
        return True

    def _inputs(self) -> tuple:
        """The same states each time, as churn wants it."""
        if self._probe is None:
            view = surgery.view_of(self.model)
            seen = states.recorded(self.model, count=256)
            self._probe = states.inputs(self.model, view, *seen)
        return self._probe

    def _diagnose(self) -> None:
        traced = surgery.trace(self.model)
        seen = look(traced, [self._inputs()], before=self._before)
        self._before = seen.actions
        for name, value in {**seen.metrics, **fibers_of(traced, self.threshold)}.items():
            if "/" not in name:  # those of single spaces would fill the screen
                self.logger.record(f"kcore/{name}", value)

    def _break(self, done: int) -> None:
        if self._breaker is None:
            policy = self.model.policy
            owners = (policy, getattr(policy, "actor", None), getattr(policy, "critic", None))
            held = [o for part in owners if (o := getattr(part, "optimizer", None)) is not None]
            how: dict[str, Any] = {"threshold": self.threshold, "probe": [self._inputs()], **self.breaking}
            traced, both = surgery.trace(self.model), _Both(held)
            self._breaker = SymmetryBreaker(traced, None, both, **how)  # type: ignore[arg-type]
        made = self._breaker.act(done)
        self.logger.record("kcore/recycled", float(made.count))
        self.logger.record("kcore/break_kl", made.kl)


class _Both:
    """Several optimizers of one policy, as one whose state of recycled weights is cleared."""

    def __init__(self, optimizers: Sequence[Any]):
        self.optimizers = optimizers
        self.param_groups = [group for one in optimizers for group in one.param_groups]

    @property
    def state(self) -> dict[Any, Any]:
        """By parameter; what is written into one of these is written into its optimizer's."""
        return {p: held for one in self.optimizers for p, held in one.state.items()}
