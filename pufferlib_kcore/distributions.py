"""Distributions: what a policy says of its actions, one distribution for each state.

`of` reads what a policy returns. ".." are its states: a batch, or environments and steps.

    logits (.., n), or a torch Categorical                 Discrete
    a torch Normal (.., d), or an Independent one          Continuous, dimensions independent of each other
    Squashed                                               a normal in tanh, between bounds, as SAC has it
    a list of any of these                                 Joint, parts independent of each other

Probabilities, entropies and divergences are one number a state, (..), in nats.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, reduce, singledispatch
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal

from pufferlib_kcore.errors import UserError

if TYPE_CHECKING:
    from typing_extensions import Self

POINTS = 2048  # at which a Continuous compares itself in `js`
OUTCOMES = 2**20  # of a Joint, at most, in `js`


class ActionDistribution(ABC):
    """One distribution over actions for each state.  Actions of `width` columns, (.., width)."""

    width: int

    @abstractmethod
    def map(self, f: Callable[..., Tensor], *others: Self) -> Self:
        """The same kind, each of its tensors made by f from its own and the others' in that place."""

    @abstractmethod
    def named(self) -> dict[str, Tensor]:
        """Its tensors: `logits`; `mean` and `std`; of a Joint's part i `logits_i` and so on."""

    @abstractmethod
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One action for each state: (..) int64, (.., d) of a Continuous, (.., columns) of a Joint.

        Drawn on the generator's device, and there they stay: a seed means the same with and without a GPU.
        """

    @abstractmethod
    def mode(self) -> Tensor:
        """The most likely action for each state, as `sample` has it."""

    @abstractmethod
    def log_prob(self, actions: Tensor) -> Tensor:
        """log p(a), of a Continuous the density's.  actions: as `sample` has them -> (..)"""

    @abstractmethod
    def entropy(self) -> Tensor:
        """H(p) = -E_p log p.  -> (..)"""

    @abstractmethod
    def kl(self, other: Self) -> Tensor:
        """KL(p, q) = E_p (log p - log q), infinite where q excludes what p does not.  -> (..)"""

    @abstractmethod
    def mean(self) -> Self:
        """One for all states, (1, ..): p's mean of probabilities, or a normal of their mean and variance."""

    @abstractmethod
    def _against(self, other: Self) -> tuple[Tensor, Tensor]:
        """Points that stand for p: their weights, adding up to 1, and log q - log p there.  (.., points)"""

    def js(self, other: Self) -> Tensor:
        """Jensen-Shannon divergence, symmetric, from 0 to log 2, with m = (p + q) / 2.  -> (..)

            JS(p, q) = (KL(p, m) + KL(q, m)) / 2 = log 2 - E_m H(p / (p + q))

        with H(s) = -s log s - (1 - s) log(1 - s): log 2, less what is left to guess of whether an action was
        drawn from p or from q. Exact for discrete actions, several together too (the joint distribution's:
        parts do not add up here). For normals E_m is a mean over 2048 points of each, the same ones always: a
        scrambled Sobol sequence and its mirror image, good to about 1%, and below 1e-4 to a few. Raises
        UserError for a Joint of more than 2**20 outcomes.
        Source: Lin, 1991, "Divergence measures based on the Shannon entropy".
        """
        sides = []
        for weights, ratio in (self._against(other), other._against(self)):
            odds = -ratio.abs()  # log((1 - s) / s) or its negative: H is even
            left = torch.logaddexp(odds, odds.new_zeros(())) - odds * odds.sigmoid()
            sides.append((weights * (math.log(2) - left)).sum(-1))
        return (sides[0] + sides[1]) / 2

    def to(self, place: torch.device | torch.dtype) -> Self:
        """On another device, or in another precision."""
        return self.map(lambda x: x.to(place))


@dataclass(frozen=True, eq=False)
class Discrete(ActionDistribution):
    """p_i = exp(logits_i) / sum_j exp(logits_j).  logits: (.., n), -inf for an action that is masked"""

    logits: Tensor
    width = 1

    @cached_property
    def log_p(self) -> Tensor:
        """(.., n)"""
        return torch.log_softmax(self.logits, -1)

    def map(self, f: Callable[..., Tensor], *others: Self) -> Self:
        return type(self)(f(self.logits, *(other.logits for other in others)))

    def named(self) -> dict[str, Tensor]:
        return {"logits": self.logits}

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        p = torch.softmax(_near(self.logits, generator), -1)
        return torch.multinomial(p.flatten(0, -2), 1, generator=generator).view(p.shape[:-1])

    def mode(self) -> Tensor:
        return self.logits.argmax(-1)

    def log_prob(self, actions: Tensor) -> Tensor:
        return self.log_p.gather(-1, actions.long().unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """-sum_i p_i log p_i"""
        return -(self.log_p.exp() * _above_minus_infinity(self.log_p)).sum(-1)

    def kl(self, other: Self) -> Tensor:
        """sum_i p_i (log p_i - log q_i)"""
        p = self.log_p.exp()
        return (p * (self.log_p - other.log_p).masked_fill(p == 0, 0)).sum(-1)

    def mean(self) -> Self:
        return type(self)(self.log_p.flatten(0, -2).logsumexp(0, keepdim=True))

    def _against(self, other: Self) -> tuple[Tensor, Tensor]:
        return self.log_p.exp(), _above_minus_infinity(other.log_p) - _above_minus_infinity(self.log_p)


@dataclass(frozen=True, eq=False)
class Continuous(ActionDistribution):
    """p(x) = prod_i exp(-((x_i - loc_i) / scale_i)^2 / 2) / (scale_i sqrt(2 pi)).  loc, scale: (.., d)"""

    loc: Tensor
    scale: Tensor

    @property
    def width(self) -> int:  # type: ignore[override]
        return self.loc.shape[-1]

    def map(self, f: Callable[..., Tensor], *others: Self) -> Self:
        loc, scale = (f(*xs) for xs in zip(*((x.loc, x.scale) for x in (self, *others)), strict=True))
        return type(self)(loc, scale)

    def named(self) -> dict[str, Tensor]:
        return {"mean": self.loc, "std": self.scale}

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        loc, scale = _near(self.loc, generator), _near(self.scale, generator)
        return loc + scale * torch.randn(loc.shape, generator=generator, device=loc.device, dtype=loc.dtype)

    def mode(self) -> Tensor:
        return self.loc

    def log_prob(self, actions: Tensor) -> Tensor:
        """sum_i -((a_i - loc_i) / scale_i)^2 / 2 - log scale_i - log sqrt(2 pi)"""
        square = (actions - self.loc) ** 2 / (2 * self.scale**2)
        return (-square - self.scale.log() - math.log(math.sqrt(2 * math.pi))).sum(-1)

    def entropy(self) -> Tensor:
        """sum_i 1/2 + log(2 pi) / 2 + log scale_i"""
        return (0.5 + 0.5 * math.log(2 * math.pi) + self.scale.log()).sum(-1)

    def kl(self, other: Self) -> Tensor:
        """sum_i (r_i + ((loc_i - loc'_i) / scale'_i)^2 - 1 - log r_i) / 2, r_i = (scale_i / scale'_i)^2"""
        r = (self.scale / other.scale).square()
        return (r + ((self.loc - other.loc) / other.scale).square() - 1 - r.log()).sum(-1) / 2

    def mean(self) -> Self:
        """loc the mean of loc_s over states s, scale^2 the mean of scale_s^2 plus the variance of loc_s"""
        loc, scale = self.loc.flatten(0, -2), self.scale.flatten(0, -2)
        variance = scale.square().mean(0, keepdim=True) + loc.var(0, correction=0, keepdim=True)
        return type(self)(loc.mean(0, keepdim=True), variance.sqrt())

    def _against(self, other: Self) -> tuple[Tensor, Tensor]:
        """At x = loc + scale z: log q - log p = sum_i z_i^2 / 2 - (b_i z_i + a_i)^2 / 2 + log b_i"""
        z = _points(self.width).to(self.loc)  # (points, d)
        a, b = (self.loc - other.loc) / other.scale, self.scale / other.scale
        ratio = (1 - b.square()) @ z.square().T / 2 - (a * b) @ z.T
        ratio = ratio + (b.log() - a.square() / 2).sum(-1, keepdim=True)
        return ratio.new_full((len(z),), 1 / len(z)), ratio


@dataclass(frozen=True, eq=False)
class Squashed(Continuous):
    """a = low + (high - low) (tanh(x) + 1) / 2, x of a Continuous.  low, high: (d,)

    Divergences are those of x: a bijection changes none. `mode` is what the mean of x becomes, as SAC's
    deterministic action is (Haarnoja et al., 2018, "Soft actor-critic", 1801.01290, appendix C).
    """

    low: Tensor
    high: Tensor

    def map(self, f: Callable[..., Tensor], *others: Self) -> Self:
        loc, scale = (f(*xs) for xs in zip(*((x.loc, x.scale) for x in (self, *others)), strict=True))
        return type(self)(loc, scale, self.low, self.high)

    def to(self, place: torch.device | torch.dtype) -> Self:
        return type(self)(*(x.to(place) for x in (self.loc, self.scale, self.low, self.high)))

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self.squashed(super().sample(generator))

    def mode(self) -> Tensor:
        return self.squashed(self.loc)

    def log_prob(self, actions: Tensor) -> Tensor:
        """log p(x) - sum_i log da_i / dx_i, x = atanh of the action in its bounds"""
        inner = 2 * (actions - self.low) / (self.high - self.low) - 1
        x = torch.atanh(inner.clamp(-1 + 1e-6, 1 - 1e-6))
        return super().log_prob(x) - self._stretch(x)

    def entropy(self) -> Tensor:
        """H(x) + E sum_i log da_i / dx_i, by Gauss and Hermite's 32 points"""
        nodes, weights = np.polynomial.hermite_e.hermegauss(32)
        z, w = (torch.as_tensor(x, dtype=self.loc.dtype, device=self.loc.device) for x in (nodes, weights))
        x = self.loc[..., None, :] + self.scale[..., None, :] * z[:, None]  # (.., 32, d)
        return super().entropy() + (self._stretch(x) * w / w.sum()).sum(-1)

    def mean(self) -> Self:
        plain = Continuous(self.loc, self.scale).mean()
        return type(self)(plain.loc, plain.scale, self.low, self.high)

    def squashed(self, x: Tensor) -> Tensor:
        """The action that x becomes."""
        low, high = self.low.to(x), self.high.to(x)
        return low + (high - low) * (torch.tanh(x) + 1) / 2

    def _stretch(self, x: Tensor) -> Tensor:
        """sum_i log((high_i - low_i) / 2) + log(1 - tanh(x_i)^2), which is stable where tanh is 1"""
        half = ((self.high - self.low) / 2).to(x).log()
        return (half + 2 * (math.log(2) - x - torch.nn.functional.softplus(-2 * x))).sum(-1)


@dataclass(frozen=True, eq=False)
class Joint(ActionDistribution):
    """p(a) = prod_i p_i(a_i), over actions whose columns are the parts' own: several discrete ones, say."""

    parts: tuple[ActionDistribution, ...]

    @property
    def width(self) -> int:  # type: ignore[override]
        return sum(part.width for part in self.parts)

    def map(self, f: Callable[..., Tensor], *others: Self) -> Self:
        several = zip(self.parts, *(other.parts for other in others), strict=True)
        return type(self)(tuple(part.map(f, *rest) for part, *rest in several))

    def named(self) -> dict[str, Tensor]:
        return {f"{name}_{i}": x for i, part in enumerate(self.parts) for name, x in part.named().items()}

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self._side_by_side([part.sample(generator) for part in self.parts])

    def mode(self) -> Tensor:
        return self._side_by_side([part.mode() for part in self.parts])

    def log_prob(self, actions: Tensor) -> Tensor:
        """sum_i log p_i(a_i)"""
        return reduce(torch.add, [part.log_prob(own) for part, own in self._columns(actions)])

    def entropy(self) -> Tensor:
        """sum_i H(p_i)"""
        return reduce(torch.add, [part.entropy() for part in self.parts])

    def kl(self, other: Self) -> Tensor:
        """sum_i KL(p_i, q_i)"""
        return reduce(torch.add, [p.kl(q) for p, q in zip(self.parts, other.parts, strict=True)])

    def mean(self) -> Self:
        """Part by part: what parts have to do with each other over states is not in it."""
        return type(self)(tuple(part.mean() for part in self.parts))

    def _against(self, other: Self) -> tuple[Tensor, Tensor]:
        """Every point of one part with every point of the others."""
        sides = [p._against(q) for p, q in zip(self.parts, other.parts, strict=True)]
        if (outcomes := math.prod(ratio.shape[-1] for _, ratio in sides)) > OUTCOMES:
            raise UserError(
                f"no Jensen-Shannon divergence of actions with {outcomes:,} outcomes (at most {OUTCOMES:,}): "
                "compare their parts one by one, or by KL"
            )
        weights, ratio = sides[0]
        for w, r in sides[1:]:
            weights = (weights[..., :, None] * w[..., None, :]).flatten(-2)
            ratio = (ratio[..., :, None] + r[..., None, :]).flatten(-2)
        return weights, ratio

    def _side_by_side(self, actions: list[Tensor]) -> Tensor:
        whole = zip(self.parts, actions, strict=True)
        return torch.cat([a.unsqueeze(-1) if isinstance(part, Discrete) else a for part, a in whole], -1)

    def _columns(self, actions: Tensor) -> Iterator[tuple[ActionDistribution, Tensor]]:
        first = 0
        for part in self.parts:
            last = first + part.width
            yield part, actions[..., first] if isinstance(part, Discrete) else actions[..., first:last]
            first = last


@singledispatch
def of(output: Any, dtype: torch.dtype = torch.float32) -> Any:
    """What a policy returns for its actions, as an ActionDistribution that computes in this precision.

    Raises UserError for what is none. A new kind registers itself: @of.register(ItsType).
    """
    raise _unknown(f"a {type(output).__name__}")


@of.register(ActionDistribution)
def _(output: ActionDistribution, dtype: torch.dtype = torch.float32) -> ActionDistribution:
    return output.to(dtype)


@of.register(Tensor)
def _(output: Tensor, dtype: torch.dtype = torch.float32) -> Discrete:
    if output.ndim < 2 or not output.is_floating_point():
        raise _unknown(f"{str(output.dtype).removeprefix('torch.')} of shape {tuple(output.shape)}")
    return Discrete(output.to(dtype))


@of.register(Categorical)
def _(output: Categorical, dtype: torch.dtype = torch.float32) -> Discrete:
    return Discrete(output.logits.to(dtype))


@of.register(Normal)
def _(output: Normal, dtype: torch.dtype = torch.float32) -> Continuous:
    return Continuous(output.loc.to(dtype), output.scale.to(dtype))


@of.register(Independent)
def _(output: Independent, dtype: torch.dtype = torch.float32) -> Continuous:
    if output.reinterpreted_batch_ndims != 1 or not isinstance(output.base_dist, Normal):
        raise _unknown(f"{output.reinterpreted_batch_ndims} axes of {type(output.base_dist).__name__}")
    return of(output.base_dist, dtype)


@of.register(list)
@of.register(tuple)
def _(output: Sequence[Any], dtype: torch.dtype = torch.float32) -> Joint:
    if not output:
        raise _unknown("an empty list")
    return Joint(tuple(of(part, dtype) for part in output))


def _unknown(what: str) -> UserError:
    expected = "logits (.., n), a torch Categorical or Normal, or a list of such"
    return UserError(f"a policy's actions are {what}: expected {expected}")


D = TypeVar("D", bound=ActionDistribution)


def cat(several: Sequence[D]) -> D:
    """One after the other, over the states of all, in one row.  -> (states, ..)"""
    first, *rest = several
    return first.map(lambda *xs: torch.cat([x.flatten(0, -2) for x in xs]), *rest)


def _near(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return x if generator is None else x.to(generator.device)


def _above_minus_infinity(log_p: Tensor) -> Tensor:
    """So that 0 log 0 is 0."""
    return log_p.clamp_min(torch.finfo(log_p.dtype).min)


@cache
def _points(width: int) -> Tensor:
    """(POINTS, width) float64, as if drawn from a standard normal; with each its mirror image."""
    unit = torch.quasirandom.SobolEngine(width, scramble=True, seed=0).draw(POINTS // 2, dtype=torch.float64)
    z = torch.special.ndtri(unit.clamp(2**-31, 1 - 2**-31))
    return torch.cat([z, -z])
