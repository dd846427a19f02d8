"""Precision: the number format of the policy's arithmetic; parameters and losses stay float32."""

from __future__ import annotations

import contextlib

import torch
from torch import nn

from pufferlib_kcore.errors import UserError

NAMES = ("auto", "float32", "bfloat16")


def resolve(name: str, policy: nn.Module, device: torch.device) -> str:
    """`auto` is bfloat16 where the hardware multiplies it natively and the policy convolves, else float32."""
    if name not in NAMES:
        raise UserError(f"train.precision is {name!r}; expected one of {', '.join(NAMES)}")
    if name != "auto":
        return name
    convolves = any(isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) for m in policy.modules())
    return "bfloat16" if convolves and _native_bfloat16(device) else "float32"


def autocast(name: str, device: torch.device):
    """A factory of context managers under which the policy runs in the named format."""
    if name == "float32":
        return contextlib.nullcontext
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16)


def _native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return any(
        getattr(torch.cpu, probe, bool)() for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
