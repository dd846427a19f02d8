"""Finite: NaN and infinity are refused before anything is made of them, naming where they stand."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pufferlib_kcore.errors import UserError

DIVERGED = "training has diverged there, so take an earlier checkpoint"


def finite(x: Any, where: str, cure: str = DIVERGED) -> None:
    """Nothing, where every number of a tensor is finite; what is no tensor passes.

    where  what the sentence begins with: "body.0.weight", "'exp_avg' of body.0.weight"
    cure   and what it ends with: what to do
    Raises UserError.
    """
    if isinstance(x, Tensor) and not (good := x.detach().isfinite()).all():
        wrong = "NaN" if x.isnan().any() else "infinity"
        count = "" if x.ndim == 0 else f" in {int((~good).sum())} of its {x.numel()} numbers"
        raise UserError(f"{where} holds {wrong}{count}: {cure}")
