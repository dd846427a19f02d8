"""Verification: a collapsed policy, lifted to full size, must compute what it does, whatever its weights.

This holds for every partition of every space, near copies or not, if tracing has understood the policy: so it
is tried with random weights on each collapse, and finds what tracing has not seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pufferlib_kcore.fibration import quotient
from pufferlib_kcore.fibration.quotient import Merge, Table
from pufferlib_kcore.graph.copying import copy_of
from pufferlib_kcore.graph.nested import tensors_in
from pufferlib_kcore.graph.rebuild import rebuild
from pufferlib_kcore.graph.running import aside
from pufferlib_kcore.graph.states import alike, cut, cut_states

if TYPE_CHECKING:
    from pufferlib_kcore.graph.network import Network, Outputs

TOLERANCE = 5e-3  # of the largest output: far above rounding, below what a wrong width changes
NOISY = {"rand", "randn", "rand_like", "randn_like", "normal", "bernoulli", "uniform", "exponential"}
DROPS = {
    f"{kind}dropout{d}"
    for kind in ("", "alpha_", "feature_", "feature_alpha_")
    for d in ("", "1d", "2d", "3d")
}


def verify(
    policy: nn.Module,
    smaller: nn.Module,
    network: Network,
    merged: Mapping[str, Merge],
    inputs: tuple,
    method: str,
    outputs: Outputs,
) -> str | None:
    """What differs between a collapsed policy and its lift, in words; None if nothing does.

    Both get the same random weights, of the size of their own. Randomness within the policy is held still.
    """
    if not merged:
        return None
    labels = {name: merge.labels for name, merge in merged.items()}
    base = _shaken(smaller, network)
    tensors = dict([*base.named_parameters(), *base.named_buffers()])
    lifted = rebuild(policy, network, quotient.lift(tensors, narrowed(network.table, merged), labels), {})
    kept = dict([*lifted.named_parameters(), *lifted.named_buffers()])
    for name, x in tensors.items():
        if name not in network.table:
            kept[name].data.copy_(x)
    ours = _answers(base, cut_states(inputs, network.state_inputs, labels), method, outputs)
    theirs = _answers(lifted, cut_states(inputs, network.state_inputs, labels, alike), method, outputs)
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if i in network.state_outputs:
            b = cut(b, network.state_outputs[i], labels)
        if a.shape != b.shape:
            return f"collapsing it changes the shape of output {i} from {tuple(b.shape)} to {tuple(a.shape)}"
        if a.is_floating_point() and not _close(a, b):
            return f"output {i} depends on how many units there are, in a way that tracing does not follow"
    return None


def narrowed(table: Table, merged: Mapping[str, Merge]) -> Table:
    """The table of the collapsed policy: fibers for units."""
    widths = {name: int(merge.labels.max()) + 1 for name, merge in merged.items()}
    return {
        name: tuple(
            tuple(replace(s, units=widths.get(s.space or "", s.units)) for s in axis) for axis in axes
        )
        for name, axes in table.items()
    }


def _shaken(policy: nn.Module, network: Network) -> nn.Module:
    """The policy with random numbers added to what its table names, of the size that its entries have."""
    shaken, generator = copy_of(policy), torch.Generator().manual_seed(0)
    named = dict([*shaken.named_parameters(), *shaken.named_buffers()])
    for name in network.table:
        x = named[name].data
        if isinstance(named[name], nn.Parameter) and x.is_floating_point():
            fan_in = x[0].numel() if x.ndim > 1 else 1
            size = max(float(x.double().square().mean().sqrt()), 0.1 / max(fan_in, 1) ** 0.5)
            noise = torch.randn(x.shape, generator=generator, dtype=torch.float64) * size * 0.5
            named[name].data = (x.double().cpu() + noise).to(x)
    return shaken


def _answers(policy: nn.Module, inputs: tuple, method: str, outputs: Outputs) -> list[Tensor]:
    with torch.no_grad(), aside(policy), _Still():
        torch.manual_seed(0)
        output = getattr(policy, method)(*inputs)
        return list(tensors_in(output if outputs is None else outputs(output)))


def _close(a: Tensor, b: Tensor) -> bool:
    a, b = a.double(), b.double()
    finite = torch.isfinite(a) & torch.isfinite(b)
    if not torch.equal(torch.isfinite(a), torch.isfinite(b)):
        return False
    scale = float(a[finite].abs().max()) if finite.any() else 0.0
    return bool(((a - b)[finite].abs() <= TOLERANCE * scale + 1e-6).all())


class _Still(TorchFunctionMode):
    """Nothing is dropped, and random numbers are all alike: units that compute the same go on doing so."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name, kwargs = getattr(func, "__name__", "").strip("_"), kwargs or {}
        if name in DROPS:
            return args[0]
        out = func(*args, **kwargs)
        if func is torch.normal and isinstance(args[0], Tensor):  # a distribution's sample: its mean
            return args[0].expand(out.shape).clone()
        if name in NOISY and isinstance(out, Tensor):
            return out.fill_(0.5)
        return out
