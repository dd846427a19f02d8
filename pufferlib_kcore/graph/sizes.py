"""Sizes: whole numbers that modules keep, and the axes whose widths they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

CONV = {"out_channels": ("weight", 0), "in_channels": ("weight", 1)}
CONV_TRANSPOSE = {"in_channels": ("weight", 0), "out_channels": ("weight", 1)}
DEPTHWISE = dict.fromkeys(("in_channels", "out_channels", "groups"), ("weight", 0))

# module class -> attribute -> the parameter and axis that it is the width of
SIZES: dict[type[nn.Module], dict[str, tuple[str, int]]] = {
    nn.Linear: {"out_features": ("weight", 0), "in_features": ("weight", 1)},
    nn.Bilinear: {
        "out_features": ("weight", 0),
        "in1_features": ("weight", 1),
        "in2_features": ("weight", 2),
    },
    nn.Embedding: {"embedding_dim": ("weight", 1)},
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), CONV),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), CONV_TRANSPOSE),
    nn.modules.batchnorm._NormBase: {"num_features": ("weight", 0)},
    nn.RNNBase: {"hidden_size": ("weight_hh_l0", 1), "input_size": ("weight_ih_l0", 1)},
    nn.RNNCellBase: {"hidden_size": ("weight_hh", 1), "input_size": ("weight_ih", 1)},
}


@dataclass
class Attribute:
    """A whole number kept by a module of the user's, and the neurons along the axis whose width it is."""

    module: str
    name: str
    place: int | None  # in the tuple or list that the attribute is; None for a plain number
    neurons: Tensor | None = field(default=None, repr=False)  # None until the policy has used it


class Size(int):
    """A whole number that remembers its origin: a module's attribute, or the neurons along an axis.

    Comparing the one with the other tells whose width the attribute is.
    """

    origin: Attribute | Tensor

    def __new__(cls, value: int, origin: Attribute | Tensor) -> Size:
        size = super().__new__(cls, value)
        size.origin = origin
        return size

    def __eq__(self, other: object) -> bool:
        if int(self) != other:
            return False
        if isinstance(other, Size):
            for one, two in ((self.origin, other.origin), (other.origin, self.origin)):
                if isinstance(one, Attribute) and isinstance(two, Tensor):
                    one.neurons = two
        return True

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = int.__hash__


def axis_of(neurons: Tensor, dim: int) -> Tensor | None:
    """The neurons along one axis, None where they differ over the others.  (.., size, ..) -> (size,)"""
    flat = neurons.movedim(dim, -1).reshape(-1, neurons.shape[dim])
    return flat[0] if len(flat) and (flat == flat[0]).all() else None


def tagged_shape(neurons: Tensor) -> torch.Size:
    """The shape of a traced tensor, whose numbers remember the neurons along their axis."""
    axes = [axis_of(neurons, dim) for dim in range(neurons.ndim)]
    return torch.Size(
        size if axis is None or not (axis > 0).any() else Size(size, axis)
        for size, axis in zip(neurons.shape, axes, strict=True)
    )


def tag_attributes(policy: nn.Module) -> list[Attribute]:
    """Put a Size in place of every whole number that the modules of the user keep.  Edits `policy`"""
    attributes = []

    def tag(value: Any, module: str, name: str, place: int | None) -> Any:
        if type(value) is not int:
            return value
        attributes.append(Attribute(module, name, place))
        return Size(value, attributes[-1])

    for path, module in policy.named_modules():
        if type(module).__module__.startswith("torch."):
            continue
        known = known_sizes(module)
        for name, value in vars(module).items():
            if name in known:
                continue
            if type(value) in (tuple, list):
                vars(module)[name] = type(value)(tag(v, path, name, i) for i, v in enumerate(value))
            else:
                vars(module)[name] = tag(value, path, name, None)
    return attributes


def learn_sizes(sizes: Sequence[Any], neurons: Tensor) -> None:
    """Where a tensor was given its shape by a module's attribute, that is the width of its axis."""
    if len(sizes) == neurons.ndim:
        for dim, size in enumerate(sizes):
            if isinstance(size, Size) and isinstance(size.origin, Attribute):
                size.origin.neurons = axis_of(neurons, dim)


def known_sizes(module: nn.Module) -> dict[str, tuple[str, int]]:
    """The sizes that a kind of module is known to keep: attribute -> (parameter, axis)."""
    if isinstance(module, nn.modules.conv._ConvNd):
        if 1 < module.groups == module.in_channels == module.out_channels:
            return DEPTHWISE
    if isinstance(module, nn.RNNBase) and module.proj_size:
        return {}  # it is left whole
    if isinstance(module, nn.modules.batchnorm._NormBase) and module.weight is None:
        return {"num_features": ("running_mean", 0)} if module.track_running_stats else {}
    return next((sizes for kind, sizes in SIZES.items() if isinstance(module, kind)), {})


def set_attribute(policy: nn.Module, attribute: Attribute, value: int) -> None:
    """Give a module of the policy another number.  Edits `policy`"""
    module = policy.get_submodule(attribute.module)
    if attribute.place is not None:
        kept = getattr(module, attribute.name)
        value = type(kept)(value if i == attribute.place else v for i, v in enumerate(kept))
    setattr(module, attribute.name, value)
