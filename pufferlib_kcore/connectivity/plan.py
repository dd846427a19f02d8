"""Plan: what a forking experiment is, each setting checked, from a YAML file and from words over it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.settings.values import Bounds, nearest, read, run_name

Algo = Literal["SAC", "DDPG"]
Strategy = Literal["copy", "fresh", "shared", "split"]
SEEDS = 1_000_000  # a seed that nobody names is one of these
FORK_POINTS = "0.01,0.05,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8"
BATCH = {"SAC": 1024, "DDPG": 256}
ONE_OR_MORE = Bounds(1)


def _setting(default: Any, help: str, bounds: Bounds | None = None) -> Any:
    return field(default=default, metadata={"help": help, "bounds": bounds})


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A trunk that trains, forks of it at parts of its training, and the line between each two children."""

    env: str = _setting("InvertedDoublePendulum-v5", "a task of MuJoCo's, or with continuous actions")
    algo: Algo = _setting("SAC", "SAC or DDPG")
    seed: int | None = _setting(None, "any whole number; random where it is not given", Bounds(0, 2**31 - 1))
    total_steps: int = _setting(
        200_000, "of the trunk, and of each child with what it comes from", ONE_OR_MORE
    )
    eval_freq: int = _setting(1000, "steps of the trunk from evaluation to evaluation", ONE_OR_MORE)
    max_episode_steps: int = _setting(1000, "after which every episode is cut off, wherever", ONE_OR_MORE)
    fork_points: tuple[float, ...] = _setting(FORK_POINTS, "parts of total_steps, parted by commas")
    fork_buffer_strategy: Strategy = _setting("copy", "copy, fresh, shared or split")
    buffer_size: int = _setting(1_000_000, "transitions that are kept, at most", ONE_OR_MORE)
    train_freq: int = _setting(2, "steps to an update", ONE_OR_MORE)
    learning_starts: int = _setting(10_000, "steps of chance before the first update", Bounds(0))
    batch_size: int | None = _setting(None, "transitions to an update; 1024 of SAC, 256 of DDPG", ONE_OR_MORE)
    ent_coef: Literal["auto"] | float = _setting(0.2, "SAC's alpha; auto: it is learned", Bounds(0))
    eval_episodes: int = _setting(10, "of an evaluation", ONE_OR_MORE)
    fork_episodes: int = _setting(100, "at each place of a line", ONE_OR_MORE)
    alphas: int = _setting(101, "places of a line, its ends among them", Bounds(2))
    sampled: bool = _setting(False, "lines with drawn actions, not with deterministic ones")
    experiment_name: str = _setting("base", "the folder in results/ and model_weights/")
    jobs: int = _setting(1, "trainings and lines at once", ONE_OR_MORE)
    device: str = _setting("cpu", "cpu, cuda or auto")

    @classmethod
    def of(cls, texts: Mapping[str, str], where: Mapping[str, str] | None = None) -> Plan:
        """From texts by name; where: what each is called in a mistake.  Raises UserError."""
        hints, names = get_type_hints(cls), where or {}
        found: dict[str, Any] = {}
        for f in fields(cls):
            text = texts.get(f.name)
            if text is None and f.name != "fork_points":
                continue
            shown = names.get(f.name, f"--{f.name}")
            if f.name == "fork_points":
                found[f.name] = points(FORK_POINTS if text is None else text, shown)
                continue
            value = read(str(text), hints[f.name], shown, str(f.default))
            bounds = f.metadata["bounds"]
            found[f.name] = bounds.check(value, shown) if bounds else value
        if unknown := next((name for name in texts if name not in hints), None):
            near = nearest(unknown, hints)
            raise UserError(
                f"{names.get(unknown, unknown)} is no setting of an experiment: "
                + (f"did you mean {near}?" if near else f"there are {', '.join(hints)}")
            )
        plan = cls(**found)
        run_name(plan.experiment_name, names.get("experiment_name", "--experiment_name"))
        if Path(plan.experiment_name).name != plan.experiment_name or plan.experiment_name.startswith("."):
            raise UserError(f"--experiment_name {plan.experiment_name!r} cannot name a folder: take one word")
        plan.check_forks()
        return plan

    def check_forks(self) -> None:
        """Raises UserError where two forks come at one step, or one has nothing left to train."""
        steps = [self.step_of(point) for point in self.fork_points]
        for point, step, after in zip(self.fork_points, steps, [*steps[1:], None], strict=True):
            if step >= self.total_steps:
                raise UserError(f"fork point {point:g} of {self.total_steps:,} steps leaves none to train")
            if step == after:
                raise UserError(
                    f"two fork points come at step {step:,} of {self.total_steps:,}: take them farther apart"
                )

    def seeded(self) -> Plan:
        """With a seed, drawn where there is none."""
        if self.seed is not None:
            return self
        return type(self)(**{**self.plain(), "seed": 1 + secrets.randbelow(SEEDS)})

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def batch(self) -> int:
        return self.batch_size or BATCH[self.algo]

    def step_of(self, point: float) -> int:
        """The step at which a fork is made: the first at or after its point that ends a rollout."""
        return -(-round(point * self.total_steps) // self.train_freq) * self.train_freq

    @property
    def first_update(self) -> int:
        """The step after which the first update comes; what is forked before is an initialisation."""
        return (max(self.learning_starts, 0) // self.train_freq + 1) * self.train_freq

    def capacity(self, children: int = 1) -> int:
        """Transitions that a buffer holds: no more than so many children and what they come from give."""
        return min(self.buffer_size, self.total_steps * children)


def points(text: str, where: str) -> tuple[float, ...]:
    """Fork points: numbers between 0 and 1, rising.

    >>> points("0.1, 0.5", "--fork_points")
    (0.1, 0.5)
    """
    words = [word for word in str(text).strip("()[] ").replace(",", " ").split()]
    found = [read(word, float, where, "0.1,0.5,0.9") for word in words]
    if not found:
        raise UserError(f"{where} names no fork: expected parts of the training such as 0.1,0.5,0.9")
    for point in found:
        if not 0 < point < 1:
            raise UserError(f"{where} has {point:g}: expected parts of the training, between 0 and 1")
    for before, after in zip(found, found[1:], strict=False):
        if after <= before:
            raise UserError(f"{where} has {after:g} after {before:g}: expected them in rising order")
    return tuple(found)


def help_of() -> dict[str, str]:
    """What each setting is, with its default."""
    shown = {"seed": "random", "batch_size": "the algorithm's"}
    return {f.name: f"{f.metadata['help']} (default: {shown.get(f.name, f.default)})" for f in fields(Plan)}


STRATEGIES = get_args(Strategy)
