"""Laws of a run's files: what is saved is loaded, and comes out as an earlier version wrote it."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store import EnvFacts, Facts, ModelFile, StateFile, checkpoints

WRITTEN = Path(__file__).parent / "written"
MODELS = [*WRITTEN.rglob("model_*[0-9d].pt"), *WRITTEN.rglob("*__sc0.pt")]
STATES = [*WRITTEN.rglob("*.state.pt"), *WRITTEN.rglob("trainer_state.pt")]
SPEC = {"name": "Default", "rnn": None, "policy_args": {"hidden_size": 8}, "rnn_args": {}}


def model(**more):
    weights = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}
    return ModelFile(**{"policy": SPEC, "state_dict": weights, "epoch": 3, "agent_steps": 92160, **more})


def same(a, b):
    """Whether two payloads hold the same under the same keys, bit by bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else type(a) is type(b) and a == b


@pytest.mark.parametrize("kind, paths", [(ModelFile, MODELS), (StateFile, STATES)])
def test_files_of_an_earlier_version_come_out_as_they_went_in(kind, paths, tmp_path):
    assert len(paths) >= 3
    for path in paths:
        again = kind.load(path).save(tmp_path / path.name)
        old, new = (torch.load(file, weights_only=True) for file in (path, again))
        assert same(old, new), path


def test_what_a_model_file_says_of_itself_comes_back(tmp_path):
    env = EnvFacts(name="pong", package="atari", kwargs={"frameskip": 4}, preprocessing="ale")
    whole = model(env=env, versions={"torch": "2"}, git_commit="abc", collapse={"tag": "03"}, seed=7)
    for file in (whole, model()):
        back = ModelFile.load(file.save(tmp_path / "m.pt"))
        for field in fields(ModelFile):
            assert same(getattr(back, field.name), getattr(file, field.name)) or field.name == "env"
        assert back.env == file.env and back.shapes == {"a.weight": [2, 3], "a.bias": [2]}
    assert whole.facts == Facts(
        policy=SPEC, env=env, versions={"torch": "2"}, git_commit="abc", collapse={"tag": "03"}
    )


def test_an_older_file_that_says_nothing_of_its_environments_preprocessing_has_pufferlibs(tmp_path):
    path = model(env=EnvFacts(name="pong")).save(tmp_path / "m.pt")
    payload = checkpoints.load(path)
    del payload["env"]["preprocessing"], payload["env"]["package"]
    checkpoints.save(path, payload | {"of a later version": 1})
    assert ModelFile.load(path).env == EnvFacts(name="pong", preprocessing="pufferlib")


def test_a_model_file_that_claims_more_than_it_holds_is_refused_before_memory_is_asked_for(tmp_path):
    path = model().save(tmp_path / "m.pt")
    payload = checkpoints.load(path)
    for name, shape, held in (("a.weight", [10**9, 10**6], r"\(2, 3\)"), ("b", [1], "None")):
        checkpoints.save(path, payload | {"shapes": {**payload["shapes"], name: shape}})
        with pytest.raises(UserError, match=rf"m\.pt says that {name} has shape .* and holds {held}"):
            ModelFile.load(path)


def test_weights_are_written_as_they_would_lie_on_a_cpu_whatever_the_layout(tmp_path):
    conv = torch.nn.Conv2d(3, 4, 5).to(memory_format=torch.channels_last)
    back = ModelFile.load(model(state_dict=conv.state_dict()).save(tmp_path / "m.pt"))
    assert back.state_dict["weight"].is_contiguous() and torch.equal(back.state_dict["weight"], conv.weight)
    assert not conv.weight.is_contiguous()


def test_a_pickled_module_is_what_its_maker_is_trusted_to_say(tmp_path):
    path, net = tmp_path / "m.pt", torch.nn.Linear(3, 2)
    torch.save(net, path)
    with pytest.raises(UserError, match="--trust-checkpoint"):
        ModelFile.load(path)
    found = ModelFile.load(path, lambda module: model(state_dict=module.state_dict()))
    assert torch.equal(found.state_dict["weight"], net.weight)


def test_companions_states_are_kept_by_name_and_cost_a_run_without_any_nothing(tmp_path):
    state = StateFile(optimizer={"state": {}, "param_groups": []}, epoch=3, agent_steps=64)
    path = state.save(tmp_path / "s.pt")
    assert "companions" not in checkpoints.load(path) and StateFile.load(path) == state
    held = {"noise": {"rng": torch.Generator().manual_seed(1).get_state(), "seen": [1, 2]}, "other": {}}
    assert same(StateFile.load(replace(state, companions=held).save(path)).companions, held)


def test_weights_and_states_are_not_mixed_up(tmp_path):
    weights = model().save(tmp_path / "m.pt")
    state = StateFile(optimizer={}, epoch=1, agent_steps=1).save(tmp_path / "s.pt")
    with pytest.raises(UserError, match="expected an optimizer's state"):
        StateFile.load(weights)
    with pytest.raises(UserError, match="expected a policy's weights"):
        ModelFile.load(state)
