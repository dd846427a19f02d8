"""Planted symmetry: PufferLib's own policies, lifted from a known base by known fibers."""

from types import SimpleNamespace

import gymnasium
import numpy as np
import pufferlib.models
import torch
from torch import nn

from pufferlib_kcore import graph
from pufferlib_kcore.fibration.partition import number
from pufferlib_kcore.fibration.quotient import repeat
from pufferlib_kcore.graph.copying import copy_of
from pufferlib_kcore.graph.nested import arguments, tensors_in
from pufferlib_kcore.graph.states import cut, cut_states

FRAME = (1, 44, 44)  # 64 * 2 * 2 numbers are left of it after NatureCNN's convolutions


def world(observation, action):
    """What PufferLib's policies ask of an environment."""
    env = SimpleNamespace(single_observation_space=observation, single_action_space=action)
    env.observation_space, env.env = observation, env
    return env


def frames(shape=FRAME):
    return gymnasium.spaces.Box(0, 255, shape, np.uint8)


ATARI = world(frames(), gymnasium.spaces.Discrete(6))
PROCGEN = world(frames((16, 16, 3)), gymnasium.spaces.Discrete(5))


def random_(policy: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter random, biases too, in float64."""
    generator = torch.Generator().manual_seed(seed)
    policy = policy.double()
    for parameter in policy.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
        noise = torch.randn(parameter.shape, generator=generator).double() / fan_in**0.5
        parameter.data = noise.to(parameter.device)
    return policy


def nature(input_size=24, layers=1, hidden=20):
    """LSTMWrapper(Convolutional), and inputs to trace it with."""
    policy = pufferlib.models.Convolutional(
        ATARI, framestack=1, flat_size=256, hidden_size=input_size, output_size=hidden
    )
    policy.actor = nn.Linear(hidden, 6)
    wrapped = pufferlib.models.LSTMWrapper(ATARI, policy, input_size, hidden, num_layers=layers)
    return random_(wrapped), (screens(2), None)


def screens(*lead, shape=FRAME, seed=0):
    return torch.randint(0, 256, (*lead, *shape), generator=torch.Generator().manual_seed(seed)).byte()


def random_fibers(policy, inputs, grow=1.5, seed=0, method="forward", outputs=None):
    """Random labels for every space that can grow, all layers of one LSTM equally wide."""
    rng, fibers = np.random.default_rng(seed), {}
    for row in graph.spaces(policy, inputs, method=method, outputs=outputs).rows:
        if row["reason"] is None:
            units = row["units"]
            extra = rng.integers(0, units, int(grow * units) - units)
            fibers[row["space"]] = number(rng.permutation(np.concatenate([np.arange(units), extra])))
    return fibers


def lifted(policy, inputs, grow=1.5, seed=0, method="forward", outputs=None):
    """A larger policy that computes the same, in-weights split unevenly; and its fibers."""
    fibers = random_fibers(policy, inputs, grow, seed, method, outputs)
    how = dict(method=method, outputs=outputs, generator=torch.Generator().manual_seed(seed))
    return graph.lift(policy, inputs, fibers, **how), fibers


def flat(output):
    """The tensors of a policy's output, but for recurrent state."""
    actions, value = output[:2]
    if isinstance(actions, torch.distributions.Normal):
        actions = [actions.loc, actions.scale]
    return [*actions, value] if isinstance(actions, list) else [actions, value]


def play(policy, chunks):
    """Outputs over chunks of observations, (B, T, ..) each; the state is carried on, or reset (None)."""
    outputs, state = [], None
    for observations, reset in chunks:
        *output, state = policy(observations, None if reset else state)
        outputs += flat(output)
    return outputs


def episodes(seed=0):
    """Sequences of several lengths, with resets in between."""
    lengths = [((3, 4), True), ((3, 2), False), ((3,), False), ((3, 5), True)]
    return [(screens(*lead, seed=seed + i), reset) for i, (lead, reset) in enumerate(lengths)]


def assert_same(found, expected, tolerance=1e-10):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def assert_same_policy(found, expected):
    assert type(found) is type(expected)
    names, others = found.state_dict(), expected.state_dict()
    assert names.keys() == others.keys()
    assert_same(names.values(), others.values())


class Net(nn.Module):
    """Layers by name, and a forward written in place."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.body = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs):
        return self.body(self, *inputs)


def inputs(*shape):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(0)).double(),)


def two_heads(net, x):
    return net.actor(x), net.critic(x)


def assert_exact(base, given, spaces, method="forward", outputs=None):
    """A lift of these spaces, and of no others, collapses to the base, and all three compute the same."""
    base, given = random_(base), arguments(given)
    large, fibers = lifted(base, given, method=method, outputs=outputs)
    assert set(fibers) == set(spaces)
    network = graph.trace(base, given, method=method, outputs=outputs).network
    wide = cut_states(given, network.state_inputs, fibers, repeat)
    found = graph.collapse(large, wide, 0, method=method, outputs=outputs)
    for name, labels in fibers.items():
        np.testing.assert_array_equal(found.fibers[name], labels, name)
    assert_same_policy(found.policy, base)
    with torch.no_grad():
        answers = [
            list(tensors_in(out if outputs is None else outputs(out)))
            for out in (
                getattr(policy, method)(*copy_of(x))
                for policy, x in ((base, given), (found.policy, given), (large, wide))
            )
        ]
    assert_same(answers[1], answers[0])
    for i, (wider, x) in enumerate(zip(answers[2], answers[0], strict=True)):
        if i in network.state_outputs:
            wider = cut(wider, found.network.state_outputs[i], fibers)
        assert_same([wider], [x])
    return found
