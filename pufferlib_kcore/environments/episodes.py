"""Episodes: an environment that plays those of given seeds, one after the other, and then rests."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium

from pufferlib_kcore.environments.creators import Creator
from pufferlib_kcore.environments.puffer2.serial import emulated


class Episodes(gymnasium.Wrapper):
    """Each reset takes the next seed, whatever it is given; when all are played, a step does nothing."""

    def __init__(self, env: gymnasium.Env, seeds: Sequence[int]):
        super().__init__(env)
        self.seeds, self.rests, self.last = list(seeds)[::-1], False, None

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        if not self.seeds:
            self.rests = True
            return self.last, {}
        self.last, info = self.env.reset(seed=self.seeds.pop(), options=options)
        return self.last, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        if self.rests:
            return self.last, 0.0, False, False, {}
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, float(reward), terminated, truncated, info


@dataclass(frozen=True)
class EpisodesOf:
    """A picklable creator() -> PufferLib's env that plays these seeds' episodes."""

    creator: Creator
    seeds: tuple[int, ...]

    def __call__(self) -> Any:
        return emulated(Episodes(self.creator.gymnasium(), self.seeds))
