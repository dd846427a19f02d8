"""Spaces as plain data, for checkpoints: Box, Discrete and MultiDiscrete, there and back."""

from functools import singledispatch
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from pufferlib_kcore.errors import UserError


@singledispatch
def space_to_plain(space: Any) -> dict:
    """A space as a dict of strings, numbers and lists, which JSON can hold as well (inf as "inf")."""
    raise UserError(
        f"cannot store a {type(space).__name__} space: expected Box, Discrete or MultiDiscrete; "
        "flatten it (PufferLib's emulation does) or register it with @space_to_plain.register"
    )


@space_to_plain.register
def _(space: spaces.Box) -> dict:
    return {
        "type": "Box",
        "shape": [int(n) for n in space.shape],
        "dtype": str(space.dtype),
        "low": _bound_to_plain(space.low),
        "high": _bound_to_plain(space.high),
    }


@space_to_plain.register
def _(space: spaces.Discrete) -> dict:
    return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}


@space_to_plain.register
def _(space: spaces.MultiDiscrete) -> dict:
    return {
        "type": "MultiDiscrete",
        "nvec": space.nvec.tolist(),
        "start": space.start.tolist(),
        "dtype": str(space.dtype),
    }


def plain_to_space(plain: dict) -> Space:
    """The space that space_to_plain described."""
    kind = plain.get("type")
    if kind == "Box":
        dtype = np.dtype(plain["dtype"])
        low, high = (_bound_from_plain(plain[key], tuple(plain["shape"]), dtype) for key in ("low", "high"))
        return spaces.Box(low, high, dtype=dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(plain["n"], start=plain.get("start", 0))
    if kind == "MultiDiscrete":
        nvec = np.array(plain["nvec"])
        start = np.array(plain.get("start", np.zeros_like(nvec)))
        return spaces.MultiDiscrete(nvec, dtype=np.dtype(plain.get("dtype", "int64")).type, start=start)
    raise UserError(f"unknown space type {kind!r}: expected Box, Discrete or MultiDiscrete")


def _bound_to_plain(bound: np.ndarray) -> Any:
    """A Box's bound: one number where all are equal, else nested lists."""
    if bound.size and (bound == bound.flat[0]).all():
        return _number(bound.flat[0].item())
    return _nested(bound.tolist())


def _nested(value: Any) -> Any:
    return [_nested(v) for v in value] if isinstance(value, list) else _number(value)


def _number(value: Any) -> Any:
    return str(value) if isinstance(value, float) and np.isinf(value) else value


def _bound_from_plain(plain: Any, shape: tuple, dtype: np.dtype) -> np.ndarray:
    return np.broadcast_to(np.array(_parsed(plain), dtype=dtype), shape).copy()


def _parsed(value: Any) -> Any:
    if isinstance(value, list):
        return [_parsed(v) for v in value]
    return float(value) if isinstance(value, str) else value
