"""CartPole whose force, observations and reactions differ: what a policy of the plain one has not seen."""

from collections import deque
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from pufferlib_kcore.environments.packages import register


class NoisyObservations(gymnasium.ObservationWrapper, gymnasium.utils.RecordConstructorArgs):
    """observation + N(0, noise), of the environment's own generator"""

    def __init__(self, env: gymnasium.Env, noise: float):
        gymnasium.utils.RecordConstructorArgs.__init__(self, noise=noise)
        gymnasium.ObservationWrapper.__init__(self, env)
        self.noise = noise
        self.observation_space = spaces.Box(-np.inf, np.inf, env.observation_space.shape, np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        drawn = self.env.unwrapped.np_random.normal(0, self.noise, observation.shape)
        return (observation + drawn).astype(observation.dtype)


class DelayedActions(gymnasium.Wrapper, gymnasium.utils.RecordConstructorArgs):
    """An action is carried out `delay` steps later; until then action 0 is."""

    def __init__(self, env: gymnasium.Env, delay: int):
        gymnasium.utils.RecordConstructorArgs.__init__(self, delay=delay)
        gymnasium.Wrapper.__init__(self, env)
        self.delay, self.waiting = delay, deque([0] * delay)

    def reset(self, **kwargs: Any) -> tuple[Any, dict]:
        self.waiting = deque([0] * self.delay)
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        self.waiting.append(action)
        return self.env.step(self.waiting.popleft())


@register("cartpole_variant", ("cartpole_variant",))
def make(
    name: str,
    *,
    force: float = 10.0,
    noise: float = 0.0,
    delay: int = 0,
    max_episode_steps: int = 500,
    render_mode: str | None = None,
) -> gymnasium.Env:
    """force: of a push [N]; noise: deviation of what is added to observations; delay: of actions [steps]."""
    env = gymnasium.make("CartPole-v1", max_episode_steps=max_episode_steps, disable_env_checker=True)
    env.unwrapped.force_mag = force  # type: ignore[attr-defined]
    if noise > 0:
        env = NoisyObservations(env, noise)
    return DelayedActions(env, delay) if delay else env
