"""Atari on ALE's own vector environment: games in C++ threads, with a preprocessing of their own."""

from collections.abc import Callable

import numpy as np

from pufferlib_kcore.environments.contract import Batch, Seed, Turns, as_actions
from pufferlib_kcore.environments.creators import Creator
from pufferlib_kcore.environments.rewards import REWARDS
from pufferlib_kcore.environments.seeds import env_seeds
from pufferlib_kcore.environments.wrappers import numbers
from pufferlib_kcore.errors import UserError

NO_LIMIT = 2**31 - 2  # frames of an episode; ALE counts in an int32, and starts one above the limit


class Ale:
    """Games in threads of this process. Each group is a vector environment by itself, in the envs' order.

    The settings are those of the other backends, and so are the games; the pictures differ. A pixel is the
    mean of 2x2 of the screen's instead of every second one, a stack of screens starts black instead of with
    copies of the first, and an episode's last observation repeats the screen before it.
    """

    def __init__(self, creator: Callable, num_envs: int, num_threads: int, env_batch_size: int, seed: int):
        if num_envs % env_batch_size:
            raise UserError(f"groups of {env_batch_size} envs do not fit {num_envs} envs: choose a divisor")
        if not isinstance(creator, Creator) or creator.package != "atari":
            name = getattr(creator, "name", creator)
            raise UserError(f"--vec ale steps Atari games, not {name}: use --vec multiprocessing")
        if other := creator.rewards.keys() - {"scaled"}:
            raise UserError(f"--vec ale has no reward {min(other)}: use --vec multiprocessing")
        vector_env, settings = _vector_env(), creator.settings
        self.num_envs, self.seed = num_envs, seed
        self.scaled = creator.rewards.get("scaled", REWARDS.settings("scaled"))
        self.driver_env = creator()  # never stepped
        self.single_observation_space = self.driver_env.single_observation_space
        self.single_action_space = self.driver_env.single_action_space
        self.groups = list(np.arange(num_envs).reshape(-1, env_batch_size))
        framestack, height, width = self.single_observation_space.shape
        limit = settings["max_num_frames_per_episode"]
        self.games = [
            vector_env(
                creator.name,
                env_batch_size,
                num_threads=min(env_batch_size, max(1, num_threads // len(self.groups))),
                img_height=height,
                img_width=width,
                stack_num=framestack,
                frameskip=settings["frameskip"],
                repeat_action_probability=settings["repeat_action_probability"],
                full_action_space=settings["full_action_space"],
                max_num_frames_per_episode=NO_LIMIT if limit is None else limit,
                maxpool=False,
                noop_max=0,
                use_fire_reset=False,
                reward_clipping=False,
            )
            for _ in self.groups
        ]
        self.turns = Turns(len(self.groups))
        self.first: list[tuple | None] = [None] * len(self.groups)  # what a reset answered, until recv
        self.ended = np.zeros(num_envs, bool)
        self.returns, self.lengths = np.zeros(num_envs), np.zeros(num_envs, int)

    def reset(self, seed: Seed = None, first: int = 0) -> None:
        """Start a new episode in every env. Steps under way are waited for and dropped."""
        for group, turn in enumerate(self.turns.next):
            if turn == "recv" and self.first[group] is None:
                self.games[group].recv()
        seeds = np.array(env_seeds(self.seed if seed is None else seed, first, self.num_envs))
        for group, ids in enumerate(self.groups):
            obs, _ = self.games[group].reset(seed=seeds[ids])
            no = np.zeros(len(ids), bool)
            self.first[group] = obs, np.zeros(len(ids)), no, no, {}
        self.ended[:] = True
        self.turns.start()

    def recv(self, group: int) -> Batch:
        """Wait for the group's games."""
        self.turns.take(group, "recv", then="send")
        ids, answer = self.groups[group], self.first[group]
        self.first[group] = None
        obs, rewards, terminals, truncations, told = answer or self.games[group].recv()
        begins = self.ended[ids]
        self.returns[ids] = np.where(begins, 0, self.returns[ids] + rewards)
        self.lengths[ids] = np.where(begins, 0, self.lengths[ids] + 1)
        self.ended[ids] = ended = terminals | truncations
        infos = []
        for i, env in enumerate(ids):
            if ended[i]:
                own = numbers({key: values[i] for key, values in told.items() if key != "env_id"})
                counted = {"episode_return": self.returns[env], "episode_length": self.lengths[env]}
                infos.append(own | {key: count.item() for key, count in counted.items()})
        rewards, bound = rewards * float(self.scaled["reward_scale"]), self.scaled["reward_clip"]
        if bound is not None:
            rewards = np.clip(rewards, -bound, bound)
        return Batch(obs, rewards.astype(np.float32), terminals, truncations, infos, ids)

    def send(self, group: int, actions: np.ndarray) -> None:
        """Start the group's next step.  actions: (B,).  Raises ValueError for one that the game has not."""
        actions = as_actions(actions, len(self.groups[group]), self.single_action_space)
        n = self.games[group].single_action_space.n
        if ((actions < 0) | (actions >= n)).any():  # ALE's thread would drop it, and recv wait for ever
            raise ValueError(f"actions are {actions}: expected 0 to {n - 1}")
        self.turns.take(group, "send", then="recv")
        self.games[group].send(actions)

    def close(self) -> None:
        """End the threads. May be called again."""
        self.turns.close()
        self.games.clear()
        self.driver_env.close()


def _vector_env() -> Callable:
    try:
        from ale_py.vector_env import AtariVectorEnv
    except ImportError:
        raise UserError(
            "--vec ale needs ale_py.vector_env, which ale-py has from 0.11.1 on and gymnasium 1.1 or newer "
            "runs: pip install -U ale-py gymnasium, or use --vec multiprocessing"
        ) from None
    return AtariVectorEnv
