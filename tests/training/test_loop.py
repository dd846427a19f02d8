"""Loop: epochs, its checkpoints, and going on from them bit by bit."""

import copy
import math

import gymnasium
import numpy as np
import pytest
import torch
from torch.distributions import Distribution
from worlds import Countdown, loop, resumed, tiny_policy, weights

from pufferlib_kcore.store import ModelFile, StateFile, checkpoints
from pufferlib_kcore.training import metrics
from pufferlib_kcore.training.acting import Diverged
from pufferlib_kcore.training.generators import get_rng, set_rng
from pufferlib_kcore.training.layout import load_optimizer, make_optimizer


def make(folder, start=None, policy=None, vec=None, **changes):
    vec = vec or Countdown([3, 5, 20, 7], groups=2)
    return loop(folder, vec, policy or tiny_policy(vec), start=start, **changes)


def resume(folder, epoch):
    vec = Countdown([3, 5, 20, 7], groups=2)
    return resumed(folder, vec, tiny_policy(vec, seed=99), epoch)


def test_trains_to_the_last_step_with_a_record_an_epoch_and_checkpoints_at_the_interval(tmp_path):
    trainer = make(tmp_path, total_timesteps=64 * 5)
    assert trainer.fit()
    seen = trainer.seen
    assert [r["overview/epoch"] for r in seen] == [1, 2, 3, 4, 5] and seen[-1]["overview/agent_steps"] == 320
    kept = trainer.run.metrics()
    assert [r["epoch"] for r in kept] == [1, 2, 3, 4, 5]
    assert [epoch for epoch, _ in trainer.run.checkpoints()] == [2, 4, 5]  # the interval, and the end
    assert list(kept[0]) == list(metrics.KEYS.values()) and set(seen[0]) == set(metrics.KEYS)
    lrs = [r["overview/learning_rate"] for r in seen]
    assert np.allclose(lrs, [1e-3 * (1 - i / 5) for i in range(5)])  # annealed


def test_a_resumed_run_has_parameters_moments_schedule_steps_and_random_numbers_bit_by_bit(tmp_path):
    first = make(tmp_path)
    first.fit(stop=lambda: first.epoch == 2)
    second = resume(tmp_path, 2)
    assert torch.equal(weights(first.policy), weights(second.policy))
    assert (first.epoch, first.agent_steps) == (second.epoch, second.agent_steps) == (2, 128)
    for p, q in zip(first.policy.parameters(), second.policy.parameters(), strict=True):
        for name, moment in first.optimizer.state[p].items():
            assert torch.equal(moment, second.optimizer.state[q][name]), name
    assert torch.equal(first.tools.generator.get_state(), second.tools.generator.get_state())


def test_resuming_twice_gives_the_same_run_bit_by_bit(tmp_path):
    first = make(tmp_path)
    first.fit(stop=lambda: first.epoch == 2)
    ends = []
    for _ in range(2):
        again = resume(tmp_path, 2)
        again.fit()
        ends.append(weights(again.policy))
    assert again.epoch == 4 and torch.equal(*ends)
    assert not torch.equal(ends[0], weights(first.policy))


def test_a_resumed_run_plays_new_episodes_by_the_steps_that_are_taken(tmp_path):
    first = make(tmp_path)
    first.fit(stop=lambda: first.epoch == 2)
    again = resume(tmp_path, 2)
    again.fit()
    assert first.vec.began == ((1, 0), 0) and again.vec.began == ((1, 128), 0)


def test_interrupted_between_checkpoints_loses_no_finished_epoch(tmp_path):
    trainer = make(tmp_path, checkpoint_interval=100)
    assert not trainer.fit(stop=lambda: trainer.epoch == 3)
    assert [epoch for epoch, _ in trainer.run.checkpoints()] == [3]


def test_moments_follow_their_parameters_layout_in_memory(tmp_path):
    """Fused Adam takes memory as it lies: a moment laid out unlike its parameter would be scrambled."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 4, 5).to(memory_format=torch.channels_last) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    optimizers = [make_optimizer(layer, 1e-2) for layer in layers]
    x = torch.randn(2, 3, 9, 9)

    def train(i):
        optimizers[i].zero_grad()
        layers[i](x).square().sum().backward()
        optimizers[i].step()

    train(0)
    path = tmp_path / "model_000001.state.pt"
    plain = copy.deepcopy(optimizers[0].state_dict())
    for moments in plain["state"].values():
        moments |= {
            name: moment.contiguous() for name, moment in moments.items()
        }  # as a collapse leaves them
    StateFile(optimizer=plain, epoch=1, agent_steps=1).save(path)
    layers[1].load_state_dict(layers[0].state_dict())
    load_optimizer(optimizers[1], StateFile.load(path).optimizer)
    train(0), train(1)
    assert torch.allclose(layers[0].weight, layers[1].weight, atol=1e-7)


def test_divergence_keeps_the_last_good_checkpoint(tmp_path):
    vec = Countdown([20] * 4)
    trainer = make(tmp_path, vec=vec, checkpoint_interval=1)
    vec.bad_at = 40  # observations turn to nan in the third rollout
    with pytest.raises(Diverged):
        trainer.fit()
    assert [epoch for epoch, _ in trainer.run.checkpoints()] == [1, 2]
    kept = ModelFile.load(trainer.run.model_path(2)).state_dict
    assert all(torch.isfinite(tensor).all() for tensor in kept.values())


@pytest.mark.parametrize(
    "space", [gymnasium.spaces.Discrete(3), gymnasium.spaces.Box(-1, 1, (2,), np.float32)]
)
@pytest.mark.parametrize("minibatches", [1, 2])
def test_a_step_that_leaves_no_number_is_divergence_and_is_not_saved(
    tmp_path, space, minibatches, monkeypatch
):
    monkeypatch.setattr(Distribution, "_validate_args", True)
    vec = Countdown([20] * 4)
    vec.single_action_space = space
    vec.send = lambda g, actions, send=vec.send: send(g, np.zeros(len(actions)))
    sizes = {"minibatch_size": 64 // minibatches, "update_epochs": 1, "checkpoint_interval": 1}
    trainer = make(tmp_path, vec=vec, **sizes, learning_rate=1e39)
    with pytest.raises(Diverged):
        trainer.fit()
    assert not trainer.run.checkpoints() and not trainer.run.states()
    assert Distribution._validate_args, "training leaves the process as it was"


def test_a_failing_environment_keeps_what_was_learned_before(tmp_path):
    class Breaking(Countdown):
        def send(self, g, actions):
            super().send(g, actions)
            if self.sent == 40:
                raise RuntimeError("broken")

    trainer = make(tmp_path, vec=Breaking([20] * 4), checkpoint_interval=100)
    with pytest.raises(RuntimeError, match="broken"):
        trainer.fit()
    assert [epoch for epoch, _ in trainer.run.checkpoints()] == [2]


def test_epochs_without_a_finished_episode_are_recorded_as_unknown(tmp_path):
    trainer = make(tmp_path, vec=Countdown([1000] * 4), total_timesteps=64)
    trainer.fit()
    assert math.isnan(trainer.seen[0]["environment/episode_return"])
    assert trainer.run.metrics()[0]["episode_return"] is None


def test_what_environments_report_at_an_episodes_end_is_in_the_record(tmp_path):
    class Scoring(Countdown):
        def send(self, g, actions):
            super().send(g, actions)
            for info in self.infos[g]:
                info |= {"score": 2.0 * info["episode_length"], "won": np.bool_(True), "name": "no number"}

    trainer = make(tmp_path, vec=Scoring([3, 1000, 1000, 7], groups=2), total_timesteps=64 * 2)
    trainer.fit()
    lengths = [3] * 4 + [7] * 2  # in 16 steps; the dummy steps count
    first = trainer.run.metrics()[0]
    assert first["episodes"] == 6 and first["episode_length"] == pytest.approx(np.mean(lengths))
    assert first["environment/score"] == pytest.approx(2 * np.mean(lengths))
    assert first["environment/won"] == 1 and "environment/name" not in first
    assert trainer.seen[0]["environment/score"] == first["environment/score"]


def test_random_state_round_trips_as_plain_data(tmp_path):
    generator = torch.Generator().manual_seed(4)
    rng = checkpoints.plain(get_rng(generator))
    drawn = torch.rand(3, generator=generator), torch.rand(3), np.random.rand(3)
    set_rng(rng, generator)
    again = torch.rand(3, generator=generator), torch.rand(3), np.random.rand(3)
    assert all(np.array_equal(a, b) for a, b in zip(drawn, again, strict=True))


def test_learns_a_trivial_task(tmp_path):
    """Reward 1 for action 2 only: the policy comes to choose it."""

    class Prefers(Countdown):
        def send(self, g, actions):
            super().send(g, actions)
            self.rewards[self.groups[g]] *= actions == 2

    trainer = make(
        tmp_path, vec=Prefers([8] * 4), total_timesteps=64 * 60, learning_rate=0.02, anneal_lr=False
    )
    trainer.fit()
    assert (trainer.algorithm.collector.data.actions == 2)[
        trainer.algorithm.collector.data.valid
    ].float().mean() > 0.9


@pytest.mark.parametrize(
    "space",
    [
        gymnasium.spaces.MultiDiscrete([3, 2, 4]),
        gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32),
    ],
)
@pytest.mark.parametrize("recurrent", [True, False])
def test_learns_with_every_kind_of_action(tmp_path, space, recurrent):
    """Reward for a large first action: the policy comes to choose it."""

    class Prefers(Countdown):
        def __init__(self, lengths):
            super().__init__(lengths)
            self.single_action_space = space

        def send(self, g, actions):
            super().send(g, np.zeros(len(actions)))
            self.rewards[self.groups[g]] *= actions[:, 0]

    vec = Prefers([8] * 4)
    policy = tiny_policy(vec, recurrent=recurrent)
    trainer = make(
        tmp_path, vec=vec, policy=policy, total_timesteps=64 * 40, learning_rate=0.02, anneal_lr=False
    )
    trainer.fit()
    data = trainer.algorithm.collector.data
    chosen = data.actions[..., 0].float()[data.valid].mean()
    assert chosen > 1.5
