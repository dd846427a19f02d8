"""The engine end to end, with torch, NumPy and SciPy alone: any Python that has these three may run it."""

import torch
from torch import nn

import pufferlib_kcore as kcore
from pufferlib_kcore.diagnostics.findings import diagnose
from pufferlib_kcore.diagnostics.look import look
from pufferlib_kcore.diagnostics.records import Records


def main() -> None:
    torch.manual_seed(0)
    policy = nn.Sequential(
        nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3)
    ).double()
    with torch.no_grad():  # the second half of the first layer copies the first
        policy[0].weight[8:] = policy[0].weight[:8]
        policy[0].bias[8:] = policy[0].bias[:8]
    states = torch.randn(256, 4, dtype=torch.float64)
    optimizer = torch.optim.Adam(policy.parameters())
    result = kcore.collapse(policy, states, threshold=1e-9)
    assert result.policy[0].out_features == 8
    assert (result.policy(states) - policy(states)).abs().max() < 1e-10
    assert (result.lifted()(states) - policy(states)).abs().max() < 1e-10
    policy(states).square().mean().backward()
    optimizer.step()
    result = kcore.collapse(policy, states, threshold=1e-9)
    smaller = torch.optim.Adam(result.policy.parameters())
    smaller.load_state_dict(kcore.collapse_optimizer(optimizer, result, policy=policy))
    traced = kcore.trace(policy, states)
    found = kcore.search(traced, calibrate=[(states,)], held_out=[(states[:64],)], target_params=0.5)
    assert found.collapse.policy[0].out_features < 16
    kcore.SymmetryBreaker(policy, states, threshold=1e-9)
    assert look(traced, [(states,)]).metrics
    assert diagnose(Records.of([{"epoch": epoch, "value_loss": 1.0} for epoch in range(40)])) is not None
    print("the engine alone: ok, torch", torch.__version__)


if __name__ == "__main__":
    main()
