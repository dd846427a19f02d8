"""Algorithm: what the loop asks of one, shown by a toy that learns off policy from a buffer."""

import math
from functools import partial

import pytest
import torch
from company import SIX, Jolts, end, same
from replay import Replay
from worlds import Laps, loop, resumed, tiny_policy

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.registry import Registry
from pufferlib_kcore.store import StateFile
from pufferlib_kcore.training.acting import Diverged
from pufferlib_kcore.training.algorithm import algorithms
from pufferlib_kcore.training.ppo import PPO

OTHER = {"algorithm": Replay, **SIX}


class Stirs(Jolts):
    """Jolts whose optimizer has no moments to halve, and whose rollout is a buffer."""

    def after(self, epoch):
        self.walk += torch.randn(3, generator=epoch.generator) + epoch.rollout.mean()
        with torch.no_grad():
            for p in epoch.policy.parameters():
                p += 0.01 * torch.randn(p.shape, generator=epoch.generator)
        return self.told(float(self.walk.sum()))


def laps(folder, seed=0, **more):
    vec = Laps()
    return loop(folder, vec, tiny_policy(vec, recurrent=False, seed=seed), **{**OTHER, **more})


def on(folder, **more):
    vec = Laps()
    return resumed(folder, vec, tiny_policy(vec, recurrent=False, seed=9), 3, **{**OTHER, **more})


def test_an_algorithm_with_a_buffer_goes_on_bit_by_bit(tmp_path):
    """Weights, both optimizers, the slow copy, the buffer, and a companion that steps in."""
    straight = laps(tmp_path / "straight", companions={"stirs": Stirs()})
    straight.fit()
    first = laps(tmp_path / "parts", companions={"stirs": Stirs()})
    first.fit(stop=lambda: first.epoch == 3)
    second = on(tmp_path / "parts", companions={"stirs": Stirs()})
    second.fit()
    assert same(end(straight), end(second))
    states = [StateFile.load(t.run.state_path(6)).algorithm for t in (straight, second)]
    assert same(*states) and states[0]["modules"].keys() == {"critic", "target"}
    assert second.algorithm.count == 64 * 6 and second.algorithm.renewed == 3


def test_its_metrics_go_by_their_own_names(tmp_path):
    trainer = laps(tmp_path, total_timesteps=64)
    trainer.fit()
    (record,) = trainer.run.metrics()
    assert record["replay/held"] == 64 and "losses/critic" in record and record["episode_return"] == 15
    assert "policy_loss" not in record


@pytest.mark.parametrize("module", ["critic", "target"])
def test_every_module_is_watched(tmp_path, module):
    trainer = laps(tmp_path)
    with torch.no_grad():
        trainer.algorithm.modules[module].bias.fill_(math.nan)
    with pytest.raises(Diverged, match=f"after the update {module}.bias holds NaN"):
        trainer._check_finite("the update")


def test_a_run_goes_on_with_the_algorithm_that_trained_it(tmp_path):
    laps(tmp_path, total_timesteps=64 * 3).fit()
    with pytest.raises(UserError, match="the run was trained by replay, and ppo is asked for"):
        on(tmp_path, algorithm=PPO)


def test_a_state_that_names_no_algorithm_is_taken_as_it_is(tmp_path):
    """As older files are."""
    vec = Laps()
    loop(tmp_path, vec, tiny_policy(vec), total_timesteps=64 * 3).fit()
    path = tmp_path / "run" / "model_000003.state.pt"
    state = StateFile.load(path)
    StateFile(**{**vars(state), "algorithm": None}).save(path)
    assert resumed(tmp_path, vec, tiny_policy(vec), 3, **SIX).fit()


def test_algorithms_are_found_by_name_with_settings_of_their_own(tmp_path):
    assert algorithms["ppo"] is PPO and algorithms.settings("ppo") == {}
    known = Registry("algorithm", given=algorithms.given)
    known.register("replay")(Replay)
    made = partial(known["replay"], **known.settings("replay", {"mix": 0.5}))
    trainer = laps(tmp_path, algorithm=made)
    assert trainer.algorithm.mix == 0.5 and len(trainer.algorithm.buffer) == 100
    with pytest.raises(UserError, match="did you mean capacity"):
        known.settings("replay", {"capcity": 3})
