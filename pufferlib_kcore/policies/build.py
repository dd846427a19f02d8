"""From names, arguments and spaces to a policy, with no environment running."""

from collections.abc import Sequence
from math import log
from types import SimpleNamespace
from typing import Any

import torch
from gymnasium import Space, spaces
from torch import Tensor, nn

from pufferlib_kcore.environments.seeds import generator
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.policies import fast, mlp, puffer  # noqa: F401  register their policies
from pufferlib_kcore.policies.registry import POLICIES, RECURRENT
from pufferlib_kcore.policies.spaces import plain_to_space, space_to_plain

NOISE_STEPS = 16  # in one stretch of made-up observations: longer ones, and policies drift apart on them
SMOOTHNESS = (0.0, 0.5, 0.9, 0.99)  # of a stretch: correlation from step to step

# What PufferLib's settings files call "Policy" and "Recurrent", by package; other packages as None
POLICY_OF = {
    "atari": ("Convolutional", {"hidden_size": 512}),
    "procgen": ("ProcgenResnet", {}),
    "classic_control": ("Default", {"hidden_size": 64}),
    "classic_control_continuous": ("Default", {"hidden_size": 64}),
    "mettagrid": ("Fast", {}),
    None: ("Default", {"hidden_size": 128}),
}


def spec_from(
    package: str | None,
    policy_name: str,
    rnn_name: str | None,
    policy_args: dict,
    rnn_args: dict,
    observation_space: Space,
    action_space: Space,
) -> dict:
    """All that it takes to build a policy, as plain data.

    policy_name: a registered name, or "Policy" for the package's own; rnn_name: the same with
    "Recurrent", or None for a feed-forward policy. Arguments left out are filled in (framestack, flat_size,
    the LSTM's widths). Raises UserError for names, arguments and spaces that do not fit.
    """
    policy_name, rnn_name, defaults = named(package, policy_name, rnn_name, policy_args, rnn_args)
    complete = POLICIES[policy_name].complete
    policy_args = complete({**defaults, **policy_args}, observation_space, action_space)
    if rnn_name is not None:
        rnn_args = RECURRENT[rnn_name].complete(rnn_args, policy_name, policy_args)
    return {
        "name": policy_name,
        "rnn": rnn_name,
        "policy_args": dict(policy_args),
        "rnn_args": dict(rnn_args),
        "observation_space": space_to_plain(observation_space),
        "action_space": space_to_plain(action_space),
    }


def named(
    package: str | None, policy_name: str, rnn_name: str | None, policy_args: dict, rnn_args: dict
) -> tuple[str, str | None, dict]:
    """The registered names of the two, and the policy's arguments where the package has its own.

    Raises UserError, before there is an environment, for names and arguments that are not known.
    """
    defaults: dict[str, Any] = {}
    if policy_name == "Policy":
        policy_name, defaults = POLICY_OF.get(package, POLICY_OF[None])
    POLICIES.settings(policy_name, policy_args)
    if rnn_name is None and rnn_args:
        raise UserError(f"the arguments {rnn_args} belong to a recurrent policy: set rnn_name = Recurrent")
    if rnn_name == "Recurrent":
        rnn_name = "LSTMWrapper"
    if rnn_name is not None:
        RECURRENT.settings(rnn_name, rnn_args)
    return policy_name, rnn_name, defaults


def build(spec: dict) -> nn.Module:
    """The policy that a spec describes, at full size, freshly initialized from torch's generator.

    Recurrent: forward(x, state) -> (logits | list of logits | Normal, value (B, 1), state), with x
    (B, *obs) or (B, T, *obs) and state None or (h, c), each (layers, B, hidden).
    Feed-forward: forward(x) -> (logits | list of logits | Normal, value).
    """
    env = _stand_in(spec)
    policy = POLICIES[spec["name"]].make(env, **spec["policy_args"])
    if spec.get("rnn") is None:
        return policy
    return RECURRENT[spec["rnn"]].make(env, policy, **spec["rnn_args"])


def example_inputs(spec: dict, batch: int = 3, seed: int = 0, hidden_size: int | None = None) -> tuple:
    """Arguments of forward for tracing: (x,), or (x, (h, c)) for a recurrent policy.

    x: (batch, *obs) of the space's dtype, drawn within its bounds; h, c: (layers, batch, hidden) float32.
    hidden_size: of a policy that was resized since it was built.
    """
    rng = torch.Generator().manual_seed(seed)
    x = _sample(_box(spec), batch, rng)
    if spec.get("rnn") is None:
        return (x,)
    shape = (spec["rnn_args"].get("num_layers", 1), batch, hidden_size or spec["rnn_args"]["hidden_size"])
    h, c = (torch.tanh(torch.randn(shape, generator=rng)) for _ in range(2))
    return (x, (h, c))


def noise_inputs(spec: dict, states: int | None = None, seed: int | Sequence[int] = 0) -> list[tuple]:
    """Arguments of forward, made up, to calibrate a collapse on where no environment is at hand.

    states  how many; None: 8,192, or 2,048 pictures
    seed    entropy, as in `environments.seeds`

    Numbers are normal, each stretch of steps at a scale of its own, from 0.1 to 1 (log-uniform), and some
    change more slowly from step to step than others (AR(1), see SMOOTHNESS); images are flat blocks of random
    gray on black, of several sizes. (obs (B, *obs),), or of a recurrent policy stretches (obs (B, T, *obs),
    None).  Raises UserError for a space that is no Box.
    """
    rng = generator(seed)
    space = _box(spec)
    low, high = torch.from_numpy(space.low).double(), torch.from_numpy(space.high).double()
    pictures = space.dtype == "uint8" and len(space.shape) == 3
    states = states or (2048 if pictures else 8192)
    calls: list[tuple] = []
    for _ in range(-(-states // (4 * NOISE_STEPS))):
        if pictures:
            x = torch.cat([_blocks(NOISE_STEPS, space.shape, size, rng) for size in (2, 4, 8, 16)])
            x = x[torch.randperm(len(x), generator=rng)] * high
        else:
            scale = torch.exp(torch.rand(4, 1, *[1] * len(space.shape), generator=rng) * log(10) - log(10))
            x = torch.randn(4, NOISE_STEPS, *space.shape, generator=rng)
            last = torch.tensor(SMOOTHNESS).reshape(4, *[1] * len(space.shape))
            for t in range(1, NOISE_STEPS):
                x[:, t] = last * x[:, t - 1] + (1 - last**2).sqrt() * x[:, t]
            x = x * scale
        x = torch.clamp(x.double().reshape(4, NOISE_STEPS, *space.shape), low, high)
        x = x.to(torch.from_numpy(space.low).dtype)
        calls.append((x.flatten(0, 1),) if spec.get("rnn") is None else (x, None))
    return calls


def _box(spec: dict) -> spaces.Box:
    space = plain_to_space(spec["observation_space"])
    if not isinstance(space, spaces.Box):
        raise UserError(f"cannot draw observations from {space}: expected a Box")
    return space


def _blocks(count: int, shape: tuple[int, ...], size: int, rng: torch.Generator) -> Tensor:
    """Pictures of blocks, one in five of a random gray and the others black.  -> (count, *shape)"""
    small = torch.rand(count, *(-(-n // size) if n > size else n for n in shape), generator=rng)
    small = small * (torch.rand(small.shape, generator=rng) < 0.2)
    for dim, n in enumerate(shape, 1):
        if small.shape[dim] < n:
            small = small.repeat_interleave(size, dim).narrow(dim, 0, n)
    return small


def _stand_in(spec: dict) -> SimpleNamespace:
    """What a policy's constructor reads of an env: its spaces."""
    names = {
        "single_observation_space": plain_to_space(spec["observation_space"]),
        "single_action_space": plain_to_space(spec["action_space"]),
    }
    names |= {
        "observation_space": names["single_observation_space"],
        "action_space": names["single_action_space"],
    }
    return SimpleNamespace(**names, env=SimpleNamespace(**names))


def _sample(space: spaces.Box, batch: int, rng: torch.Generator) -> Tensor:
    x = torch.randn(batch, *space.shape, generator=rng, dtype=torch.float64)
    low, high = torch.from_numpy(space.low).double(), torch.from_numpy(space.high).double()
    middle = torch.where(torch.isfinite(low + high), (low + high) / 2, torch.zeros_like(low))
    spread = torch.where(torch.isfinite(high - low), (high - low) / 4, torch.ones_like(low)).clamp(max=100)
    return torch.clamp(middle + spread * x, low, high).to(torch.from_numpy(space.low).dtype)
