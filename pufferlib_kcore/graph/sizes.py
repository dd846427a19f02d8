"""Sizes: whole numbers that modules keep, and the axes whose widths they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pufferlib_kcore.graph.neurons import axis_of

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
    **dict.fromkeys((nn.Embedding, nn.EmbeddingBag), {"embedding_dim": ("weight", 1)}),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), CONV),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), CONV_TRANSPOSE),
    nn.modules.batchnorm._NormBase: {"num_features": ("weight", 0)},
    nn.RNNBase: {"hidden_size": ("weight_hh_l0", 1), "input_size": ("weight_ih_l0", 1)},
    nn.RNNCellBase: {"hidden_size": ("weight_hh", 1), "input_size": ("weight_ih", 1)},
}


@dataclass
class Attribute:
    """A whole number kept by a module, and the neurons along the axis whose width it is."""

    module: str
    name: str
    value: int
    place: int | None = None  # in the tuple or list that the attribute is; None for a plain number
    neurons: Tensor | None = field(default=None, repr=False)  # None until the policy has used it
    known: tuple[str, int] | None = None  # the parameter and axis whose width it is known to be
    others: list[Tensor] = field(default_factory=list, repr=False)  # neurons along further such axes

    def learn(self, neurons: Tensor | None) -> None:
        """It is the width of the axis of these neurons, and of those of others if it was theirs before."""
        if neurons is not None:
            if self.neurons is not None and not torch.equal(self.neurons, neurons):
                self.others.append(self.neurons)
            self.neurons = neurons


Origin = Attribute | Tensor | tuple[str, int]  # a module's number, neurons, or an axis of a parameter


class Size(int):
    """A whole number that remembers what it is the size of, also once it is multiplied or added to.

    Comparing a module's number with the size of an axis tells whose width it is. Where the number is more
    than a size, as in x / sqrt(size), its origins are written into the ledger: there it must stay as it is.
    """

    origins: tuple[Origin, ...]
    ledger: list[Origin]

    def __new__(cls, value: int, origins: Sequence[Origin], ledger: list[Origin]) -> Size:
        size = super().__new__(cls, value)
        size.origins, size.ledger = tuple(origins), ledger
        return size

    @property
    def attribute(self) -> Attribute | None:
        """The module's number that this is, unless it was computed from one."""
        one = self.origins[0] if len(self.origins) == 1 else None
        return one if isinstance(one, Attribute) and not isinstance(self, _Computed) else None

    @staticmethod
    def computed(value: int, origins: Sequence[Origin], ledger: list[Origin]) -> Size:
        """A number computed from sizes."""
        return _Computed(value, origins, ledger)

    def use_as_a_number(self) -> int:
        """The plain number, for something that depends on how large it is."""
        self.ledger.extend(self.origins)
        return int.__int__(self)

    def __eq__(self, other: object) -> bool:
        if int.__int__(self) != other:
            return False
        if isinstance(other, Size):
            for one, two in ((self, other), (other, self)):
                if one.attribute is not None and isinstance(two.origins[0], Tensor):
                    one.attribute.learn(two.origins[0])
        return True

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = int.__hash__

    def __deepcopy__(self, memo: dict) -> Size:
        return self

    def __reduce__(self) -> tuple:
        return int, (int.__int__(self),)

    def __float__(self) -> float:
        return float(self.use_as_a_number())


class _Computed(Size):
    """A number computed from sizes."""


def _computed(operation: str) -> Any:
    plain = getattr(int, operation)

    def compute(self: Size, *others: Any) -> Any:
        value = plain(self, *others)
        if value is NotImplemented:
            if isinstance(others[0], (float, complex, Tensor)):
                self.use_as_a_number()
            return value
        origins = [o for x in (self, *others) if isinstance(x, Size) for o in x.origins]
        return Size.computed(value, origins, self.ledger)

    return compute


def _valued(operation: str) -> Any:
    plain = getattr(int, operation)

    def compute(self: Size, *others: Any) -> Any:
        for x in (self, *others):
            if isinstance(x, Size):
                x.use_as_a_number()
        return plain(self, *others)

    return compute


for name in "add radd sub rsub mul rmul floordiv rfloordiv mod rmod neg".split():
    setattr(Size, f"__{name}__", _computed(f"__{name}__"))
for name in "truediv rtruediv pow rpow".split():
    setattr(Size, f"__{name}__", _valued(f"__{name}__"))


def sizes_in(value: Any) -> Iterator[Size]:
    """The numbers in nested tuples, lists and dicts that remember what they are the size of."""
    if isinstance(value, Size):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from sizes_in(item)
    elif isinstance(value, dict):
        yield from sizes_in(list(value.values()))


def tagged_shape(neurons: Tensor, ledger: list[Origin]) -> torch.Size:
    """The shape of a traced tensor, whose numbers remember the neurons along their axis."""
    axes = [axis_of(neurons, dim) for dim in range(neurons.ndim)]
    return torch.Size(
        size if axis is None or not (axis > 0).any() else Size(size, [axis], ledger)
        for size, axis in zip(neurons.shape, axes, strict=True)
    )


def tag_attributes(policy: nn.Module, ledger: list[Origin]) -> list[Attribute]:
    """Put a Size in place of every whole number that modules keep.  Edits `policy`

    Of torch's own modules only those that are known to be the width of an axis.
    """
    attributes = []

    def tag(value: Any, module: str, name: str, **kwargs: Any) -> Any:
        if type(value) is not int:
            return value
        attributes.append(Attribute(module, name, value, **kwargs))
        return Size(value, attributes[-1:], ledger)

    for path, module in policy.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        known = known_sizes(module)
        for name, (parameter, dim) in known.items():
            place = f"{path}.{parameter}".lstrip("."), dim
            vars(module)[name] = tag(vars(module)[name], path, name, known=place)
        if type(module).__module__.startswith("torch."):
            continue
        for name, value in vars(module).items():
            if name in known:
                continue
            if type(value) in (tuple, list):
                vars(module)[name] = type(value)(tag(v, path, name, place=i) for i, v in enumerate(value))
            else:
                vars(module)[name] = tag(value, path, name)
    return attributes


def learn_sizes(sizes: Sequence[Any], neurons: Tensor) -> None:
    """Where a tensor was given its shape by a module's number, that is the width of its axis."""
    if len(sizes) == neurons.ndim:
        for dim, size in enumerate(sizes):
            if isinstance(size, Size) and size.attribute is not None:
                size.attribute.learn(axis_of(neurons, dim))


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
