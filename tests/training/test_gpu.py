"""Where the rollout and the update are computed, and where observations wait, changes no number."""

import pytest
import torch
from worlds import Countdown, learner, rollout, tiny_policy

GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"))


@pytest.mark.parametrize("recurrent", [True, False])
@pytest.mark.parametrize("cpu_offload", [True, False])
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_a_rollout_and_its_update_are_those_of_the_cpu(device, recurrent, cpu_offload, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # which rounds an LSTM's products to 1e-4
    found = []
    for place, options in (("cpu", {}), (device, {"cpu_offload": cpu_offload})):
        torch.manual_seed(0)
        vec = Countdown([3, 3, 20, 7])
        policy = tiny_policy(vec, recurrent=recurrent).to(place)
        data = rollout(vec, policy)
        losses = learner(policy, optimizer=torch.optim.SGD, **options).update(data)
        found.append(
            (data.actions.clone(), data.values.clone(), losses, [p.cpu() for p in policy.parameters()])
        )
    (actions, values, losses, weights), (actions2, values2, losses2, weights2) = found
    assert torch.equal(actions, actions2) and torch.allclose(values, values2, atol=1e-5)
    assert losses == pytest.approx(losses2, abs=1e-4)
    for one, other in zip(weights, weights2, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
