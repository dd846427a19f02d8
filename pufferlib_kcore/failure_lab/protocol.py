"""ExperimentProtocol: what is tried, what is expected to fail, and how that is judged; in Python or YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pufferlib_kcore.diagnostics.detectors import DETECTORS
from pufferlib_kcore.environments.career import BASE
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.failure_lab.claims import Claim
from pufferlib_kcore.failure_lab.learning import check_agent
from pufferlib_kcore.failure_lab.worlds import CAREER, World
from pufferlib_kcore.settings import nearest
from pufferlib_kcore.settings.studies import table, text_of
from pufferlib_kcore.settings.values import Bounds, run_name
from pufferlib_kcore.store import atomic

STEPS = 200  # of an episode, where the world does not say


@dataclass(frozen=True, kw_only=True)
class ExperimentProtocol:
    """One experiment: an agent in a world, over seeds.  Raises UserError for what cannot be.

    A hypothesis is a sentence for people; what decides it is `claim` (see `claims`), and expected_failure,
    a detector's name, found with every seed.
    """

    name: str
    hypothesis: str = ""
    claim: str = ""
    expected_failure: str | None = None
    description: str = ""
    seeds: tuple[int, ...] = (0,)
    seed: int | None = None  # in place of seeds, of one alone
    env_type: str = CAREER
    env_params: Mapping[str, Any] = field(default_factory=dict)  # of config/<package>.ini
    reward_type: str = BASE
    reward_params: Mapping[str, Any] = field(default_factory=dict)
    agent_type: str = "dqn"
    agent_params: Mapping[str, Any] = field(default_factory=dict)
    n_episodes: int = 500  # of training, as long as they can be
    steps: int | None = None  # of training, in place of n_episodes
    eval_interval: int = 50  # episodes from checkpoint to checkpoint, each of which is evaluated
    eval_episodes: int = 100

    def __post_init__(self) -> None:
        run_name(self.name, "a protocol's name")
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise UserError(f"a protocol's name {self.name!r} cannot name a folder: take one word")
        for name, least in (("n_episodes", 1), ("eval_interval", 1), ("eval_episodes", 2), ("steps", 1)):
            Bounds(least).check(getattr(self, name), name)
        if self.seed is not None:
            object.__setattr__(self, "seeds", (self.seed,))
            object.__setattr__(self, "seed", None)
        object.__setattr__(self, "seeds", tuple(self.seeds))
        if not self.seeds:
            raise UserError(f"{self.name} has no seeds: expected some, as in seeds: [0, 1, 2]")
        for seed in self.seeds:
            Bounds(0, 2**31 - 1).check(seed, "a seed")
        if self.claim:
            Claim(self.claim)
        if self.expected_failure is not None and self.expected_failure not in DETECTORS:
            near = nearest(self.expected_failure, DETECTORS)
            known = f"did you mean {near}?" if near else f"there are {', '.join(DETECTORS)}"
            raise UserError(f"no detector finds {self.expected_failure!r}: {known}")
        check_agent(self.agent_type)
        self.world.creator.gymnasium().close()

    @property
    def world(self) -> World:
        return World(self.env_type, self.env_params, spelled(self.reward_type, self.reward_params))

    @property
    def budget(self) -> int:
        """Steps of training."""
        longest = self.env_params.get("max_steps") or self.env_params.get("max_episode_steps") or STEPS
        return self.steps or self.n_episodes * int(longest)

    @property
    def checkpoint_every(self) -> int:
        """Steps from checkpoint to checkpoint."""
        return max(1, round(self.budget * min(1.0, self.eval_interval / self.n_episodes)))

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> ExperimentProtocol:
        """Of plain data.  Raises UserError for a name that there is not."""
        said = dict(plain)
        known = [f.name for f in fields(cls)]
        for name in said:
            if name not in known:
                near = nearest(name, known)
                raise UserError(
                    f"a protocol has no {name!r}: "
                    + (f"did you mean {near}?" if near else f"expected {', '.join(known)}")
                )
        if "name" not in said:
            raise UserError("a protocol needs a name, as in name: regime_shift")
        return cls(**said)

    @classmethod
    def load(cls, path: str | Path) -> ExperimentProtocol:
        """Of a YAML file, which must say what it expects.  Raises UserError, naming the file."""
        plain = table(path)
        if not plain.get("hypothesis"):
            raise UserError(
                f"{path} has no hypothesis: say what is expected, as in "
                "hypothesis: sparse rewards are not found by chance"
            )
        try:
            return cls.of(plain)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def save(self, path: str | Path) -> Path:
        return atomic.write(Path(path), text_of(self.plain()).encode())

    def plain(self) -> dict[str, Any]:
        """As YAML and JSON hold it."""
        held = {**asdict(self), "seeds": list(self.seeds)}
        return {name: value for name, value in held.items() if value is not None}


def spelled(reward: str, params: Mapping[str, Any]) -> str:
    """short_term_v1(lambda_burnout=0.5)"""
    if not params:
        return reward
    return f"{reward}({', '.join(f'{name}={value!r}' for name, value in params.items())})"
