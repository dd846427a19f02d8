"""Nested values: the tensors in what a policy takes, returns and holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pufferlib_kcore.errors import UserError


def arguments(inputs: Any) -> tuple:
    """Positional arguments: a tuple as it is, anything else as the one argument that it is."""
    return inputs if type(inputs) is tuple else (inputs,)


def tensors_in(value: Any, strict: bool = False) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists, dicts, dataclasses and distributions, in order.

    strict  raise a UserError for an object that may hide tensors
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()), strict)
    elif isinstance(value, torch.distributions.Distribution) or is_dataclass(value):
        yield from tensors_in(list(vars(value).values()), strict)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item, strict)
    elif strict and not isinstance(value, (int, float, str, type(None))):
        raise UserError(
            f"the policy returns a {type(value).__name__}: expected tensors in tuples, lists or dicts; name "
            "those in it with outputs=, as in outputs=lambda out: (out.logits, out.value)"
        )


def tensors_of(policy: nn.Module) -> dict[str, Tensor]:
    """Every parameter and every buffer of a policy, by name."""
    return dict([*policy.named_parameters(), *policy.named_buffers()])
