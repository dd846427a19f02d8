"""A PuffeRL of PufferLib 3 whose policy is collapsed between two epochs."""

import copy
import sys

import gymnasium
import pytest
import torch

sys.argv = ["puffer"]
import pufferlib.emulation  # noqa: E402
import pufferlib.models  # noqa: E402
import pufferlib.vector  # noqa: E402
from heavyball import ForeachMuon  # noqa: E402
from pufferlib import pufferl as trainers  # noqa: E402

from pufferlib_kcore import UserError, graph  # noqa: E402
from pufferlib_kcore.integrations import puffer3  # noqa: E402

MADE = []


@pytest.fixture(autouse=True)
def stopped():
    """A PuffeRL has a thread that watches the machine, and that no process ends without."""
    yield
    while MADE:
        MADE.pop().utilization.stop()


def world(buf=None, seed=0, **kw):
    env = gymnasium.make("CartPole-v1")
    return pufferlib.emulation.GymnasiumPufferEnv(env, buf=buf, seed=seed)


def made(tmp_path, recurrent=True, optimizer="muon", policy=None, **changed):
    torch.manual_seed(0)
    vec = pufferlib.vector.make(world, num_envs=8, backend=pufferlib.vector.Serial)
    policy = policy or network(vec.driver_env, 32, recurrent)
    config = trainers.load_config("default")["train"]
    config.update(
        device="cpu", compile=False, use_rnn=recurrent, batch_size=512, bptt_horizon=16, minibatch_size=256,
        max_minibatch_size=256, total_timesteps=8192, env="cartpole", optimizer=optimizer,
        data_dir=str(tmp_path), **changed,
    )  # fmt: skip
    MADE.append(trainers.PuffeRL(config, vec, policy))
    return MADE[-1]


def network(env, width, recurrent=True):
    policy = pufferlib.models.Default(env, hidden_size=width)
    if recurrent:
        policy = pufferlib.models.LSTMWrapper(env, policy, input_size=width, hidden_size=width)
    return policy


def epochs(pufferl, count=2):
    for _ in range(count):
        pufferl.evaluate()
        pufferl.train()


def doubled(policy, example):
    """A policy of twice the units that computes the same."""
    spaces = [space for space in graph.trace(policy, example).network.spaces if space.whole is None]
    fibers = {space.name: torch.arange(space.units).repeat_interleave(2).numpy() for space in spaces}
    return graph.lift(policy, example, fibers)


@pytest.mark.parametrize("optimizer", ["muon", "adam"])
@pytest.mark.parametrize("recurrent", [True, False])
def test_it_collapses_in_the_middle_and_trains_on(tmp_path, recurrent, optimizer):
    pufferl = made(tmp_path, recurrent, optimizer)
    epochs(pufferl)
    before = pufferl.optimizer, pufferl.model_size, pufferl.optimizer.param_groups[0]["lr"]
    found = puffer3.collapse(pufferl, 1.2)
    assert found.policy is pufferl.policy is pufferl.uncompiled_policy
    assert pufferl.model_size < before[1]
    assert pufferl.optimizer is before[0] is pufferl.scheduler.optimizer
    assert pufferl.optimizer.param_groups[0]["lr"] == before[2]
    held = {id(p) for group in pufferl.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in pufferl.policy.parameters()}
    weights = copy.deepcopy(pufferl.policy.state_dict())
    epochs(pufferl)
    after = pufferl.policy.state_dict()
    assert all(torch.isfinite(x).all() for x in after.values())
    assert any((x != after[name]).any() for name, x in weights.items())
    assert pufferl.epoch == 4 and pufferl.optimizer.param_groups[0]["lr"] < before[2]


def test_a_policy_of_doubled_units_acts_as_before_from_the_same_state(tmp_path):
    pufferl = made(tmp_path)
    seen = pufferl.observations[:4].normal_()
    large = doubled(pufferl.uncompiled_policy, (seen, {"lstm_h": None, "lstm_c": None}))
    pufferl = made(tmp_path, policy=large, learning_rate=0.0)
    epochs(pufferl, 1)
    steps = pufferl.observations[:8, 0]

    def acts():
        key = next(iter(pufferl.lstm_h))
        state = {"lstm_h": pufferl.lstm_h[key], "lstm_c": pufferl.lstm_c[key]}
        with torch.no_grad():
            return pufferl.policy.forward_eval(steps, state)

    before = acts()
    found = puffer3.collapse(pufferl, 1e-5)
    assert found.policy.lstm.hidden_size == found.policy.input_size == 32
    for x, y in zip(before, acts(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("nesterov", [True, False])
def test_muons_momentum_is_what_the_smaller_networks_own_would_be(nesterov):
    small = network(world(), 8)
    example = (torch.randn(4, 5, 4), {"lstm_h": None, "lstm_c": None})
    large = doubled(small, example)

    def stepped(policy):
        optimizer = ForeachMuon(policy.parameters(), lr=0.0, nesterov=nesterov)
        for step in range(3):
            torch.manual_seed(step)
            logits, value = policy(torch.randn(4, 5, 4), {"lstm_h": None, "lstm_c": None})
            (logits.sin().sum() + value.sin().sum()).backward()
            optimizer.step()
            optimizer.zero_grad()
        return optimizer

    found = graph.collapse(large, example, 1e-5)
    mapped = graph.collapse_optimizer(stepped(large), found, large)["state"]
    same = graph.collapse(found.policy, example, 0)
    own = graph.collapse_optimizer(stepped(found.policy), same, found.policy)
    name = f"{'nesterov' if nesterov else 'heavyball'}_momentum_momentum"
    for index, kept in own["state"].items():
        torch.testing.assert_close(mapped[index][name], kept[name], rtol=1e-3, atol=1e-4)


class Stale(pufferlib.models.LSTMWrapper):
    def __init__(self, *args, **kw):
        super().__init__(*args, **kw)
        self.steps = self.hidden_size  # which forward does not use

    def forward_eval(self, observations, state):
        logits, value = super().forward_eval(observations, state)
        assert state["lstm_h"].shape[1] == self.steps
        return logits, value


def test_a_method_that_forward_does_not_show_is_refused_and_nothing_changes(tmp_path):
    policy = Stale(world(), pufferlib.models.Default(world(), 32), 32, 32)
    pufferl = made(tmp_path, policy=policy)
    epochs(pufferl, 1)
    with pytest.raises(UserError, match="forward_eval of Stale does not fit"):
        puffer3.collapse(pufferl, {"lstm": 2.0})
    assert pufferl.policy is policy
    epochs(pufferl, 1)


def test_a_checkpoint_is_collapsed_and_loads_by_the_arguments_that_are_told(tmp_path):
    pufferl = made(tmp_path, recurrent=False)
    epochs(pufferl, 1)
    path = pufferl.save_checkpoint()
    seen = pufferl.observations[:, 0]
    to = tmp_path / "smaller.pt"
    found = puffer3.collapse_checkpoint(path, to, network(world(), 32, False), seen, 1.2)
    words = puffer3.arguments(found.policy)
    assert words[0] == "--policy.hidden-size" and 0 < int(words[1]) < 32
    policy = network(world(), int(words[1]), False)
    policy.load_state_dict(torch.load(to, weights_only=True))  # as load_policy of PufferLib does, strictly
    with torch.no_grad():
        torch.testing.assert_close(policy(seen)[0], found.policy(seen)[0])
    with pytest.raises(UserError, match="there already"):
        puffer3.collapse_checkpoint(path, to, network(world(), 32, False), seen)


@pytest.mark.parametrize("content", [None, b"no file of torch's", {"x": torch.ones(3)}])
def test_what_is_no_checkpoint_of_the_policy_is_refused_in_one_sentence(tmp_path, content):
    path = tmp_path / "model_1.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match="model_1.pt"):
        puffer3.collapse_checkpoint(path, tmp_path / "to.pt", network(world(), 8, False), torch.ones(2, 4))


def test_widths_that_no_argument_says_are_refused():
    policy = network(world(), 16)
    with pytest.raises(UserError, match="one hidden_size"):
        policy.lstm = torch.nn.LSTM(16, 8)
        puffer3.arguments(policy)
