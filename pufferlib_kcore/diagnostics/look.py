"""Look: what a policy tells on a fixed batch of states; the same while it trains, and afterwards."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pufferlib_kcore import distributions
from pufferlib_kcore.diagnostics import policies, ranks, units
from pufferlib_kcore.distributions import ActionDistribution
from pufferlib_kcore.graph.activations import read_in
from pufferlib_kcore.graph.copying import copy_of
from pufferlib_kcore.graph.example import Inputs
from pufferlib_kcore.graph.nested import arguments, tensors_in
from pufferlib_kcore.graph.network import at_path, value_of
from pufferlib_kcore.graph.plasticity import by_unit
from pufferlib_kcore.graph.recording import Recorder
from pufferlib_kcore.graph.running import aside, chance_kept
from pufferlib_kcore.graph.traced import Traced

ROWS = 256  # of a space's activations, evenly spread, at most, that its ranks are taken of
SEED = 0  # of the directions in which `gradients` pushes the policy


@dataclass(frozen=True)
class Look:
    """What was seen.  metrics: by name, those of a space as name/space; actions: on the states, float64"""

    metrics: dict[str, float]
    actions: ActionDistribution


def look(
    traced: Traced,
    inputs: Inputs,
    *,
    actions: str | int = 0,
    before: ActionDistribution | None = None,
) -> Look:
    """Look at a policy on recorded inputs, tuples like its example inputs; nothing of it changes.

    actions  path of the actions in what it returns, as `divergence` takes it
    before   what an earlier look saw on the same inputs, for the churn since
    Of a recurrent policy the inputs carry the state that it had where they were recorded. What would be nan
    is left out.

    entropy, relative_entropy, action_diversity, policy_variance, dominance, churn: `policies`
    value_mean, value_std        over states, of a policy that gives values
    dormant, dead, gradient_dormant   the share of all hidden units, and of each space's: `units`
    oui, effective_rank, srank, stable_rank, feature_rank   of the last hidden space before the actions, and
                                 of each: `units`, `ranks`
    weight_norm                  |theta|_2, of all parameters
    probe_gradient_norm          of the loss that `gradients` says
    Raises UserError where actions or values are not to be found, and for NaN and infinity.
    """
    found, values, seen = _answers(traced, [arguments(one) for one in inputs], actions)
    metrics = {
        "entropy": policies.entropy(found),
        "relative_entropy": policies.relative_entropy(found),
        "action_diversity": policies.action_diversity(found),
        "policy_variance": policies.policy_variance(found),
        "dominance": policies.dominance(found),
        "value_mean": float(values.mean()) if len(values) else math.nan,
        "value_std": float(values.std(correction=0)) if len(values) else math.nan,
    }
    if before is not None:
        metrics["churn"] = policies.churn(before, found)
    pushed = gradients(traced, inputs, actions=actions)
    rows = by_unit(traced.network, pushed, "out")
    asleep = {name: units.gradient_activity(g) <= units.TAU for name, g in rows.items()}
    metrics |= _of_spaces(traced, seen, asleep)
    metrics["weight_norm"] = _norm(p.detach() for p in traced.policy.parameters())
    metrics["probe_gradient_norm"] = _norm(pushed.values())
    return Look({name: value for name, value in metrics.items() if not math.isnan(value)}, found)


def gradients(traced: Traced, inputs: Inputs, *, actions: str | int = 0) -> dict[str, Tensor]:
    """The gradient of what random errors would teach, by parameter: needs no rewards.

        L = -1/N sum_s (xi_s log p(a_s | s) + eta_s V(s)),   xi_s, eta_s in {-1, 1}, a_s ~ p(. | s)

    drawn anew from one seed each time, so that it is the same live and afterwards. A unit that it does not
    reach will learn from no reward either.
    """
    policy, example = traced.policy, traced.network.example
    rng = torch.Generator().manual_seed(SEED)
    loss, states = torch.zeros(()), 0
    with chance_kept(policy, SEED), aside(policy), torch.enable_grad():
        for one in inputs:
            answer = example.at(copy_of(arguments(one))).answer(policy)
            found = distributions.of(answer if isinstance(answer, Tensor) else at_path(answer, actions))
            log_p = found.log_prob(_sampled(found, rng)).flatten()
            loss = loss - (_signs(log_p, rng) * log_p).sum()
            for value in tensors_in(value_of(answer, example.value, traced.network.state_outputs)):
                loss = loss - (_signs(value.flatten(), rng) * value.flatten()).sum()
            states += len(log_p)
        named = {name: p for name, p in policy.named_parameters() if p.requires_grad}
        found_for = torch.autograd.grad(loss / states, list(named.values()), allow_unused=True)
    return {
        name: torch.zeros_like(p) if g is None else g
        for (name, p), g in zip(named.items(), found_for, strict=True)
    }


def fibers_of(traced: Traced, threshold: float | Mapping[str, float] = 0.3) -> dict[str, float]:
    """`units` that can merge, and their `fibers` at a cosine distance, in all and as fibers/space."""
    widths = traced.color(threshold).widths
    counts = {s.name: (s.units, widths[s.name]) for s in traced.network.spaces if not s.whole}
    total = {
        "units": float(sum(n for n, _ in counts.values())),
        "fibers": float(sum(k for _, k in counts.values())),
    }
    return total | {f"fibers/{name}": float(k) for name, (_, k) in counts.items()}


def _answers(
    traced: Traced, inputs: Sequence[tuple], actions: str | int
) -> tuple[ActionDistribution, Tensor, dict[str, Tensor]]:
    """Actions, values and the activations of each space, over all inputs, in one pass."""
    network, recorder = traced.network, Recorder(traced.policy)
    found, values, seen = [], [], []
    for one in inputs:
        output, calls = recorder.run(network.example.method, one)
        output = output if network.example.outputs is None else network.example.outputs(output)
        told = output if isinstance(output, Tensor) else at_path(output, actions)
        found.append(distributions.of(told, torch.float64))
        value = value_of(output, network.example.value, network.state_outputs)
        values += [x.double().flatten() for x in tensors_in(value)]
        seen.append(read_in(network, calls))
    together = {space: torch.cat([one[space] for one in seen]) for space in seen[0]}
    return distributions.cat(found), torch.cat(values) if values else torch.empty(0), together


def _of_spaces(traced: Traced, seen: Mapping[str, Tensor], asleep: Mapping[str, Tensor]) -> dict[str, float]:
    """Metrics by space, of all hidden spaces together, and of the last one before the actions."""
    hidden = [s for s in traced.network.spaces if s.name in seen and s.name in asleep]
    by_space: dict[str, dict[str, float]] = {}
    for space in hidden:
        h = seen[space.name].reshape(-1, space.units)
        some = h[:: max(1, len(h) // ROWS)][:ROWS]
        sigma = ranks.singular_values(some)
        by_space[space.name] = {
            "dormant": float(units.dormant(h).float().mean()),
            "dead": float(units.dead(h).float().mean()),
            "gradient_dormant": float(asleep[space.name].float().mean()),
            "oui": units.overfitting_underfitting(some) if len(some) > 1 else math.nan,
            "effective_rank": ranks.effective_rank(sigma),
            "srank": float(ranks.srank(sigma)),
            "stable_rank": ranks.stable_rank(sigma),
            "feature_rank": float(ranks.feature_rank(sigma, len(some))),
        }
    if not hidden:
        return {}
    total = sum(space.units for space in hidden)
    feature = next((s for s in reversed(hidden) if s.kind != "critic"), hidden[-1])
    metrics = dict(by_space[feature.name])
    for name in ("dormant", "dead", "gradient_dormant"):
        metrics[name] = sum(by_space[s.name][name] * s.units for s in hidden) / total
    for name in metrics.copy():
        metrics |= {f"{name}/{space}": found[name] for space, found in by_space.items()}
    return metrics


def _sampled(found: ActionDistribution, rng: torch.Generator) -> Tensor:
    with torch.no_grad():
        kept = found.map(lambda x: x.detach().cpu())
        some = kept.sample(rng)
    first = next(iter(found.named().values()))
    return some.to(first.device)


def _signs(like: Tensor, rng: torch.Generator) -> Tensor:
    return (2 * torch.randint(2, like.shape, generator=rng) - 1).to(like)


def _norm(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(sum(float(x.double().square().sum()) for x in tensors))
