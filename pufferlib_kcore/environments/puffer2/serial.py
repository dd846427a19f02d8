"""PufferLib's serial backend: all envs in this process, and Gymnasium's envs as it takes them."""

from collections.abc import Callable

import gymnasium
import numpy as np
import pufferlib.vector
from pufferlib.emulation import GymnasiumPufferEnv

from pufferlib_kcore.environments.contract import Batch, Seed, Turns, as_actions
from pufferlib_kcore.environments.seeds import env_seeds


def emulated(env: gymnasium.Env) -> GymnasiumPufferEnv:
    """An env whose observations and actions are arrays, that a buffer may hold."""
    return GymnasiumPufferEnv(env=env)


class Serial(pufferlib.vector.Serial):
    """All envs in this process, one after the other: for debugging, and for envs that take no time."""

    num_envs = 0  # in place of PufferLib's property

    def __init__(self, creators: list[Callable], seed: int):
        self.num_envs, self.seed = len(creators), seed
        nothing: list = [[]] * len(creators)
        super().__init__(creators, nothing, [{}] * len(creators), len(creators))
        self.groups = [np.arange(self.num_envs)]
        self.turns = Turns(1)

    def reset(self, seed: Seed = None, first: int = 0) -> None:
        self.async_reset(env_seeds(self.seed if seed is None else seed, first, self.num_envs))
        self.turns.start()

    def recv(self, group: int = 0) -> Batch:
        self.turns.take(group, "recv", then="send")
        obs, rewards, terminals, truncations, infos, ids, _ = super().recv()
        return Batch(obs, rewards, terminals, truncations, infos, ids)

    def send(self, group: int, actions: np.ndarray) -> None:
        actions = as_actions(actions, self.num_envs, self.single_action_space)
        self.turns.take(group, "send", then="recv")
        super().send(actions)

    def close(self) -> None:
        self.turns.close()
        while self.envs:
            self.envs.pop().close()
