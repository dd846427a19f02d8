"""A vectorization played for some steps with random actions, and all that it answered."""

from types import SimpleNamespace

import numpy as np
from gymnasium import spaces


def actions_for(vec, steps):
    rng = np.random.default_rng(0)
    space = vec.single_action_space
    if isinstance(space, spaces.Discrete):
        return rng.integers(0, space.n, (steps, vec.num_envs))
    if isinstance(space, spaces.MultiDiscrete):
        return rng.integers(0, space.nvec, (steps, vec.num_envs, len(space.nvec)))
    return rng.normal(size=(steps, vec.num_envs, *space.shape)).astype(np.float32)


def roll(vec, steps, seed, actions=None, first=0):
    """Everything that all envs answered, by step and env: arrays (steps, envs, ..), and lists of infos."""
    record = SimpleNamespace(obs=[], rewards=[], terminals=[], truncations=[], infos=[])
    actions = actions_for(vec, steps) if actions is None else actions
    vec.reset(seed, first)
    for t in range(steps):
        batches = []
        for group, ids in enumerate(vec.groups):
            batch = vec.recv(group)
            assert np.array_equal(batch.env_ids, ids)
            batches.append((batch.obs.copy(), *(np.copy(a) for a in batch[1:4]), batch.infos))
            vec.send(group, actions[t][ids])
        for name, parts in zip(vars(record), zip(*batches, strict=True), strict=True):
            whole = [info for part in parts for info in part] if name == "infos" else np.concatenate(parts)
            getattr(record, name).append(whole)
    return record


def same(a, b):
    arrays = all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("obs", "rewards", "terminals", "truncations")
    )
    return arrays and a.infos == b.infos
