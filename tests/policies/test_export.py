"""Export: what an ONNX file computes is what the policy computes, at any batch and step after step."""

import gymnasium
import numpy as np
import pytest
import torch
from torch.distributions import Distribution

from pufferlib_kcore import UserError, graph
from pufferlib_kcore.policies import build, spec_from
from pufferlib_kcore.policies.export import to_onnx
from pufferlib_kcore.policies.restore import Restored
from pufferlib_kcore.store import ModelFile

pytest.importorskip("onnxscript")
ort = pytest.importorskip("onnxruntime")

BOX = gymnasium.spaces.Box(-1, 1, (5,), np.float32)
IMAGE = gymnasium.spaces.Box(0, 255, (1, 44, 44), np.uint8)
GAUSSIAN = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
KINDS = {
    "recurrent": ("Recurrent", BOX, gymnasium.spaces.Discrete(3), ["logits", "value", "h_out", "c_out"]),
    "continuous": (None, BOX, GAUSSIAN, ["mean", "std", "value"]),
    "recurrent, continuous": ("Recurrent", BOX, GAUSSIAN, ["mean", "std", "value", "h_out", "c_out"]),
    "several actions": (None, BOX, gymnasium.spaces.MultiDiscrete([3, 2]), ["logits_0", "logits_1", "value"]),
    "images": ("Recurrent", IMAGE, gymnasium.spaces.Discrete(3), ["logits", "value", "h_out", "c_out"]),
}


def restored_of(policy, spec):
    return Restored(policy, ModelFile(policy=spec, state_dict=policy.state_dict(), epoch=0, agent_steps=0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_collapsed_policy_goes_out_and_computes_the_same(kind, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(Distribution, "_validate_args", True)  # as in a fresh process: whatever ran before
    rnn, observation, action, outputs = KINDS[kind]
    torch.manual_seed(0)
    package = "atari" if observation is IMAGE else None
    spec = spec_from(package, "Policy", rnn, {"hidden_size": 24}, {}, observation, action)
    whole = restored_of(build(spec), spec)
    found = graph.collapse(whole.policy, whole.example_inputs, 1.02)
    assert found.report.params_after < found.report.params_before
    restored = restored_of(found.policy, spec)
    assert to_onnx(restored, tmp_path / "m.onnx") < 1e-4
    assert capfd.readouterr() == ("", "")
    assert Distribution._validate_args, "an export leaves the process as it was"
    session = ort.InferenceSession(str(tmp_path / "m.onnx"))
    assert [o.name for o in session.get_outputs()] == outputs
    assert [i.name for i in session.get_inputs()] == ["obs", "h_in", "c_in"][: 3 if rnn else 1]
    obs, *state = restored.examples(4, seed=9)
    fed = {"obs": obs.numpy()} | ({"h_in": state[0][0].numpy(), "c_in": state[0][1].numpy()} if rnn else {})
    with torch.no_grad():
        actions = restored.policy(*restored.examples(4, seed=9))[0]
    first = actions.loc if hasattr(actions, "loc") else actions[0] if isinstance(actions, list) else actions
    np.testing.assert_allclose(session.run(None, fed)[0], first.numpy(), atol=1e-4)


@pytest.mark.parametrize("number", [float("nan"), 1e38])
def test_a_policy_whose_outputs_are_no_numbers_is_not_written(number, tmp_path):
    spec = spec_from(None, "Policy", None, {"hidden_size": 4}, {}, BOX, gymnasium.spaces.Discrete(3))
    policy = build(spec)
    with torch.no_grad():
        policy.value_head.weight.fill_(number)
        policy.encoder.bias.fill_(1e3)
    with pytest.raises(UserError, match="no finite numbers"):
        to_onnx(restored_of(policy, spec), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_an_output_is_measured_by_its_size(tmp_path):
    spec = spec_from(None, "Policy", None, {"hidden_size": 64}, {}, BOX, gymnasium.spaces.Discrete(3))
    policy = build(spec)
    with torch.no_grad():
        policy.value_head.weight.mul_(1e6)
    assert to_onnx(restored_of(policy, spec), tmp_path / "m.onnx") < 1e-5


def test_without_onnx_one_sentence_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    spec = spec_from(None, "Policy", None, {}, {}, BOX, gymnasium.spaces.Discrete(3))
    with pytest.raises(UserError, match="pip install onnx"):
        to_onnx(restored_of(build(spec), spec), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
