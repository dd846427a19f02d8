"""Controls: as wide as the collapse, from its checkpoint or from nothing, and by seed."""

import torch
from saved import TWINS, WIDTH, of_collapse, saved_policy, source

from pufferlib_kcore import store
from pufferlib_kcore.jobs import CollapseRequest, ControlRequest, Over, collapse, control
from pufferlib_kcore.policies import build


def ready(run, kind, seed=1):
    over = Over(overrides={"train.seed": str(seed)})
    asked = CollapseRequest(source=source(run, over=over), settings=of_collapse(), again=False)
    return control(ControlRequest(kind=kind, collapse=asked)), collapse(asked)


def test_the_original_is_the_checkpoint_with_its_optimizer(metta):
    made, _ = ready(metta, "original")
    weights = saved_policy(metta, 2).state_dict()
    assert all(torch.equal(made.policy.state_dict()[name], tensor) for name, tensor in weights.items())
    assert (
        made.optimizer["state"].keys() == store.StateFile.load(metta.state_path(2)).optimizer["state"].keys()
    )
    assert (made.epoch, made.agent_steps) == (2, 128) and made.provenance["tag"] == "original"


def test_ablated_units_are_the_originals_own_with_their_part_of_the_optimizer(metta):
    made, done = ready(metta, "ablated")
    original = saved_policy(metta, 2).encoder.weight
    rows = made.policy.encoder.weight
    assert rows.shape == done.policy.encoder.weight.shape == (WIDTH - TWINS + 1, 4)
    assert all(any(torch.equal(row, own) for own in original) for row in rows)
    assert made.optimizer["state"][0]["exp_avg"].shape == rows.shape
    assert made.provenance == {**done.provenance, "control": "ablated"}


def test_which_units_are_ablated_is_drawn_by_seed(metta):
    kept = [ready(metta, "ablated", seed)[0].policy.encoder.weight for seed in (1, 1, 2, 3)]
    assert torch.equal(kept[0], kept[1])
    assert not all(torch.equal(kept[0], other) for other in kept[2:])


def test_scratch_is_drawn_by_seed_at_the_same_widths_and_starts_cold(metta):
    (one, done), (same, _), (other, _) = (ready(metta, "scratch", seed) for seed in (1, 1, 2))
    weights = [made.policy.encoder.weight for made in (one, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert weights[0].shape == done.policy.encoder.weight.shape and one.optimizer is None
    assert (one.epoch, one.agent_steps) == (2, 128)
    torch.manual_seed(2)
    fresh = build(done.spec).encoder.weight
    assert all(any(torch.equal(row, own) for own in fresh) for row in weights[2])
    full, _ = ready(metta, "scratch-full")
    assert (full.epoch, full.agent_steps) == (0, 0)
