"""Finite: NaN and infinity are refused before anything is made of them, naming where they stand."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from pufferlib_kcore.errors import UserError

DIVERGED = "training has diverged there, so take an earlier checkpoint"


def finite(x: Any, where: str, cure: str = DIVERGED) -> None:
    """Nothing, where every number of a tensor is finite; what is no tensor passes.

    where  what the sentence begins with: "body.0.weight", "'exp_avg' of body.0.weight"
    cure   and what it ends with: what to do
    Raises UserError.
    """
    if wrong := not_finite(x):
        raise UserError(f"{where} holds {wrong}: {cure}")


def not_finite(x: Any) -> str | None:
    """'NaN in 2 of its 64 numbers' or 'infinity ..', of a tensor that holds such; None of all else."""
    if not isinstance(x, Tensor) or (good := x.detach().isfinite()).all():
        return None
    wrong = "NaN" if x.isnan().any() else "infinity"
    return wrong if x.ndim == 0 else f"{wrong} in {int((~good).sum())} of its {x.numel()} numbers"


def finite_policy(policy: nn.Module, merged: Collection[str], cure: str = DIVERGED) -> None:
    """Nothing, where every parameter of a policy is finite, and every buffer.

    merged  names of parameters and buffers that a merge may touch; other buffers may hold infinity (a mask)
    Raises UserError.
    """
    for name, parameter in policy.named_parameters():
        finite(parameter, name, cure)
    for name, buffer in policy.named_buffers():
        finite(buffer if name in merged else buffer.masked_fill(buffer.isinf(), 0), name, cure)
