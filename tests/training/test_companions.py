"""Companions: they see every epoch, may add to it, step in, and go on where they were."""

import math

import pytest
import torch
from company import SIX, Jolts, Tells, end, same
from worlds import Laps, loop, resumed, tiny_policy, weights

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store import StateFile
from pufferlib_kcore.training import companions, reporting
from pufferlib_kcore.training.acting import Diverged
from pufferlib_kcore.training.companions import Companion, Said


def laps(folder, **more):
    vec = Laps()
    return loop(folder, vec, tiny_policy(vec), **SIX, **more)


def on(folder, **more):
    vec = Laps()
    return resumed(folder, vec, tiny_policy(vec, seed=99), 3, **SIX, **more)


def test_six_epochs_are_three_and_three_more_bit_by_bit(tmp_path):
    straight = laps(tmp_path / "straight", companions={"jolts": Jolts()})
    straight.fit()
    first = laps(tmp_path / "parts", companions={"jolts": Jolts()})
    first.fit(stop=lambda: first.epoch == 3)
    second = on(tmp_path / "parts", companions={"jolts": Jolts()})
    assert second.notes == []
    second.fit()
    assert same(end(straight), end(second))
    assert len(straight.run.metrics()) == 6 and "jolts/shift" in straight.run.metrics()[5]
    assert second.companions["jolts"].starts == 1


@pytest.mark.parametrize("lost", ["walk", "random", "generator"])
def test_each_part_of_a_companions_state_decides_what_follows(tmp_path, lost):
    """Else the law above would hold of a companion that keeps nothing."""
    straight = laps(tmp_path / "straight", companions={"jolts": Jolts()})
    straight.fit()
    first = laps(tmp_path / "parts", companions={"jolts": Jolts()})
    first.fit(stop=lambda: first.epoch == 3)
    second = on(tmp_path / "parts", companions={"jolts": Jolts()})
    fresh = Jolts()
    if lost == "generator":
        second.company.generators["jolts"].manual_seed(0)
    else:
        setattr(second.companions["jolts"], lost, getattr(fresh, lost))
    second.fit()
    assert not torch.equal(weights(straight.policy), weights(second.policy))


def test_a_companion_without_a_state_begins_anew_and_one_that_is_not_asked_for_leaves_none(tmp_path):
    first = laps(tmp_path, companions={"jolts": Jolts()})
    first.fit(stop=lambda: first.epoch == 3)
    second = on(tmp_path, companions={"tells": Tells()})
    assert second.notes == [
        "jolts does not go on: it is not asked for now",
        "tells begins anew: the checkpoint has no state of it",
    ]
    second.fit()
    assert StateFile.load(second.run.state_path(6)).companions.keys() == {"tells"}


def test_without_companions_a_run_is_what_it_was_and_a_silent_one_changes_nothing(tmp_path):
    ends = []
    for name, members in (("none", {}), ("silent", {"tells": Tells()})):
        trainer = laps(tmp_path / name, companions=members)
        trainer.fit()
        ends.append(end(trainer))
        assert ("companions" in trainer.tools.clock.seconds) == bool(members)
    for i in (0, 1, 3, 4):
        assert same(ends[0][i], ends[1][i])


def test_their_metrics_reach_files_and_trackers_and_those_after_them(tmp_path):
    late = Tells()
    early = Tells(Said({"fibers/policy.encoder": 3, "diagnosis/churn": 0.25}))
    trainer = laps(tmp_path, companions={"early": early, "late": late})
    trainer.fit(stop=lambda: trainer.epoch == 2)
    first, second = trainer.run.metrics()
    assert first["fibers/policy.encoder"] == 3 and first["diagnosis/churn"] == 0.25
    assert "diagnosis/churn" not in second
    assert reporting.tracked(trainer.seen[0])["diagnosis/churn"] == 0.25
    assert late.heard[0]["diagnosis/churn"] == 0.25 and "losses/entropy" in early.heard[0]
    assert early.heard[0]["environment/episode_return"] == 15


@pytest.mark.parametrize("name", ["churn", "/churn", "diagnosis/", "losses/entropy"])
def test_a_metric_has_a_section_and_a_name_of_its_own(tmp_path, name):
    trainer = laps(tmp_path, companions={"tells": Tells(Said({name: 1.0}))})
    with pytest.raises(ValueError, match=f"tells reports the metric '{name}'"):
        trainer.fit()


def test_one_that_asks_to_stop_is_heeded_after_the_epoch_and_all_is_saved(tmp_path):
    said = Said(), Said(stop="the policy has collapsed")
    trainer = laps(tmp_path, companions={"watch": Tells(*said), "other": Tells(*said)})
    assert not trainer.fit()
    assert trainer.epoch == 2 and trainer.run.latest(with_state=True)[0] == 2
    assert trainer.reason == "watch: the policy has collapsed; other: the policy has collapsed"


def test_numbers_that_are_not_finite_are_laid_to_the_companion_and_not_saved(tmp_path):
    class Spoils(Companion):
        def after(self, epoch):
            with torch.no_grad():
                next(epoch.policy.parameters()).fill_(math.nan)
            return Said(changed=True)

    trainer = laps(
        tmp_path,
        companions={"spoils": Spoils()},
    )
    with pytest.raises(Diverged, match="after the companion spoils .* holds NaN"):
        trainer.fit()
    assert not trainer.run.checkpoints()


def test_a_parameter_that_is_replaced_is_refused_since_the_optimizer_would_not_know_it(tmp_path):
    class Replaces(Companion):
        def after(self, epoch):
            core = epoch.policy.policy
            core.encoder.weight = torch.nn.Parameter(core.encoder.weight.detach().clone())
            return Said(changed=True)

    with pytest.raises(
        ValueError, match="the companion replaces has put another policy.policy.encoder.weight"
    ):
        laps(tmp_path, companions={"replaces": Replaces()}).fit()


def test_what_was_changed_is_laid_out_for_the_optimizer_again(tmp_path):
    """Fused Adam takes memory as it lies, and a companion may leave a tensor that lies otherwise."""

    class Copies(Companion):
        def after(self, epoch):
            p = epoch.policy.extra.weight
            p.data = p.detach().contiguous(memory_format=torch.contiguous_format)
            epoch.optimizer.state[p] = {"exp_avg": p.detach().clone()}
            return Said(changed=True)

    vec = Laps()
    policy = tiny_policy(vec)
    policy.extra = torch.nn.Conv2d(3, 4, 3)
    trainer = loop(tmp_path, vec, policy, {"copies": Copies()}, total_timesteps=64)
    trainer.fit()
    p = policy.extra.weight
    moment = trainer.optimizer.state[p]["exp_avg"]
    assert p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous()
    assert moment.stride() == p.stride() and torch.equal(moment, p)


def test_one_that_can_do_nothing_says_so_before_anything_is_trained(tmp_path):
    class Refuses(Companion):
        def start(self, epoch):
            assert epoch.rollout is None and epoch.number == 0 and epoch.folder == tmp_path / "run"
            raise UserError("this policy cannot be colored")

    trainer = laps(tmp_path, companions={"refuses": Refuses()})
    with pytest.raises(UserError, match="cannot be colored"):
        trainer.fit()
    assert trainer.epoch == 0 and not trainer.run.metrics()


def test_an_epoch_is_kept_after_which_a_companion_can_do_nothing_more(tmp_path):
    class Fails(Tells):
        def after(self, epoch):
            if epoch.number == 2:
                raise UserError("a probe of another environment")
            return Said()

    vec = Laps()
    trainer = loop(tmp_path, vec, tiny_policy(vec), **SIX, companions={"fails": Fails()})
    with pytest.raises(UserError, match="another environment"):
        trainer.fit()
    assert [r["epoch"] for r in trainer.run.metrics()] == [1, 2] and trainer.run.state_path(2).is_file()
    again = resumed(tmp_path, vec, tiny_policy(vec, seed=9), 2, **SIX)
    assert again.fit() and again.epoch == 6


def test_each_has_random_numbers_of_its_own_by_the_runs_seed_and_its_name():
    drawn = {
        (name, seed): companions.Company({"a": Tells(), "b": Tells()}, seed).generators[name].initial_seed()
        for name in "ab"
        for seed in (1, 2)
    }
    assert len(set(drawn.values())) == 4
    assert drawn["a", 1] == companions.Company({"a": Tells()}, 1).generators["a"].initial_seed()
