"""Lab: what stress tests share: agents trained once, scored over seeds, compared with intervals."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from pufferlib_kcore.analysis.intervals import p_value
from pufferlib_kcore.diagnostics.findings import diagnose
from pufferlib_kcore.diagnostics.records import Records
from pufferlib_kcore.failure_lab.agents import RandomAgent
from pufferlib_kcore.failure_lab.evaluation import evaluate
from pufferlib_kcore.failure_lab.learning import Learned, learn
from pufferlib_kcore.failure_lab.references import known
from pufferlib_kcore.failure_lab.worlds import World
from pufferlib_kcore.jobs.worker import ignore_pynvml
from pufferlib_kcore.registry import Registry
from pufferlib_kcore.store.forks import read_json, write_json

STEPS = {"dqn": 40_000, "ppo": 60_000}  # of training
JUDGED = 2**21  # seed of the episodes that agents are judged by


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its 95% interval (t); of a difference also whether ranks tell it from 0."""

    mean: float
    low: float
    high: float
    p: float | None = None  # two-sided, Mann and Whitney's; seeds that fail make returns far from normal

    @classmethod
    def of(cls, x: np.ndarray) -> Interval:
        """x: (seeds,)"""
        if len(x) < 2:
            return cls(float(x.mean()), float("-inf"), float("inf"))
        half = float(stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5)
        return cls(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half)

    @property
    def above(self) -> bool:
        """Whether it lies above 0, by ranks where there are two samples."""
        return self.low > 0 if self.p is None else self.mean > 0 and self.p < 0.05

    def __str__(self) -> str:
        ranks = "" if self.p is None else f" (p = {self.p:.2g})"
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]{ranks}"


@dataclass(frozen=True)
class Scores:
    """What agents of one kind, one a seed, came to.  Each (seeds,)"""

    returns: np.ndarray
    true: np.ndarray
    dominance: np.ndarray
    burnout: np.ndarray  # mean over the last steps; nan of worlds without
    max_q: np.ndarray  # largest |Q| in training; nan of agents without
    kinds: tuple[frozenset[str], ...]  # what detectors found, as causes or symptoms

    def found(self, kind: str) -> int:
        """With how many seeds."""
        return sum(kind in one for one in self.kinds)

    def __str__(self) -> str:
        return str(Interval.of(self.true))


def beats(one: Scores, other: Scores) -> Interval:
    """By how much the return that is meant is larger; seeds share their episodes."""
    return difference(one.true, other.true)


def difference(x: np.ndarray, y: np.ndarray) -> Interval:
    """x - y, (seeds,) each, paired for its interval."""
    return replace(Interval.of(x - y), p=p_value(x, y))


@dataclass(frozen=True)
class Outcome:
    """What a stress test showed.

    passed: the failure showed itself as expected, and its control did not
    """

    passed: bool
    why: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    induced: str = ""  # the detector's name of what was done to the agents
    found: str = ""  # with how many seeds detectors found that, and in the control

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return json.loads(json.dumps({**vars(self), "passed": bool(self.passed)}, default=float))


@dataclass(frozen=True)
class Test:
    """A stress test: number, name, what is expected, and what tells whether it is so."""

    name: str
    expected: str
    run: Callable[[Lab], Outcome]
    trains: bool = True  # asks for an agent, which a random one must not be able to stand in for

    __test__ = False  # pytest's


TESTS: Registry[Test] = Registry("stress test")


def stress(number: str, name: str, expected: str, trains: bool = True) -> Callable[[Any], Any]:
    def put(run: Callable[[Lab], Outcome]) -> Callable[[Lab], Outcome]:
        TESTS.register(number)(Test(name, expected, run, trains))
        return run

    return put


@dataclass
class Lab:
    """Trains and scores for stress tests; what is trained is kept in `root`, and trained once.

    random: replace every agent by one that acts by chance, which no test must stand; shorter: steps of
    training are divided by it
    """

    root: Path
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    episodes: int = 100
    random: bool = False
    shorter: int = 1
    jobs: int = 1  # trainings at once

    def scores(
        self,
        kind: str,
        world: World,
        tested: World | None = None,
        *,
        steps: int | None = None,
        params: Mapping[str, Any] | None = None,
        seeds: tuple[int, ...] | None = None,
    ) -> Scores:
        """Train in a world, one agent a seed, and play in another, or there."""
        steps = (steps or STEPS[kind]) // self.shorter
        params = dict(params or {})
        told = [
            kind,
            world.name,
            (tested or world).name,
            steps,
            sorted(params.items()),
            self.episodes,
        ]
        one = partial(self._row, kind, world, tested or world, steps, params, told)
        seeds = seeds or self.seeds
        missing = [seed for seed in seeds if not self._path(told, seed).is_file()]
        if self.jobs > 1 and len(missing) > 1 and not self.random:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(min(self.jobs, len(missing)), context, alone) as pool:
                list(pool.map(one, missing))
        rows = [one(seed) for seed in seeds]
        columns = {name: np.array([row[name] for row in rows], float) for name in rows[0] if name != "kinds"}
        return Scores(**columns, kinds=tuple(frozenset(row["kinds"]) for row in rows))

    def _path(self, told: list, seed: int) -> Path:
        return self.root / "scores" / f"{digest([*told, seed, self.random])}.json"

    def _row(
        self, kind: str, world: World, tested: World, steps: int, params: Any, told: list, seed: int
    ) -> dict[str, Any]:
        path = self._path(told, seed)
        if path.is_file():
            return read_json(path)
        if self.random:
            env = tested.creator.gymnasium()
            size, actions = env.observation_space.shape[0], int(env.action_space.n)  # type: ignore
            env.close()
            learned = Learned(RandomAgent(size, actions, seed=seed))
        else:
            trained = digest([kind, world.name, steps, sorted(params.items()), seed])
            learned = learn(kind, world, steps, seed, self.root / "agents" / trained, params)
        # Of chance both sides of a comparison draw apart, as two agents would.
        draws = int(digest([world.name, sorted(params.items())]), 16) % 2**20 if self.random else 0
        played = evaluate(learned.agent, tested, self.episodes, JUDGED + seed + draws)
        largest = [row["max_q"] for row in learned.records if row.get("max_q") is not None]
        row = {
            "returns": float(played.returns.mean()),
            "true": float(played.true_returns.mean()),
            "dominance": played.dominance,
            "burnout": played.ends.get("burnout"),
            "max_q": max(largest) if largest else None,
            "kinds": sorted(kinds_in(learned, world)),
        }
        write_json(path, row)
        return row


def alone() -> None:
    """One of several processes: a thread each."""
    ignore_pynvml()
    torch.set_num_threads(1)


def kinds_in(learned: Learned, world: World) -> set[str]:
    """What detectors find in the records of a training, causes and symptoms."""
    if not learned.records:
        return set()
    found = diagnose(Records.of(learned.records), known(world).references).findings
    return {kind for one in found for kind in (one.kind, *one.symptoms)}


def digest(what: Any) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:12]


def counts(kind: str, induced: Scores, control: Scores) -> dict[str, str]:
    """For an Outcome: what was induced, and how often detectors found it."""
    seen = f"{induced.found(kind)} of {len(induced.kinds)}, in the control {control.found(kind)} of "
    return {"induced": kind, "found": seen + str(len(control.kinds))}
