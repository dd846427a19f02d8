"""Coloring, timed: the BeamRider policy by the engine, and by the published recipe written out plainly.

    OMP_NUM_THREADS=1 python benchmarks/coloring.py [--rounds 5] [--threshold 0.1]

Conv 32-64-64, linear 512, LSTM 512: 2,048 gate rows of 1,024 weights. Half of the neurons are planted near
copies, so that every round of the LSTM finds more to split. Both sides must find the same fibers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sklearn.cluster import AgglomerativeClustering

from pufferlib_kcore.environments.quiet import quiet
from pufferlib_kcore.fibration import refinement
from pufferlib_kcore.fibration.partition import number
from pufferlib_kcore.fibration.refinement import Rows, color_spaces
from pufferlib_kcore.graph.network import Network, network_of

with quiet():
    import pufferlib.models


def beam_rider(seed: int = 0) -> tuple[torch.nn.Module, tuple]:
    """PufferLib's policy for BeamRider, with planted near copies; and inputs to trace it with."""
    torch.manual_seed(seed)
    env: Any = SimpleNamespace(single_observation_space=SimpleNamespace(shape=(1, 105, 80)))
    env.single_action_space = SimpleNamespace(n=9)
    policy = pufferlib.models.Convolutional(env, framestack=1, flat_size=64 * 6 * 9)
    policy = pufferlib.models.LSTMWrapper(env, policy, 512, 512)
    with torch.no_grad():
        for name, p in policy.named_parameters():
            gates = p.unflatten(0, (4 if "recurrent" in name else 1, -1))
            half = gates.shape[1] // 2
            if half > 4 and p.ndim > 1:
                noise = torch.randn_like(gates[:, :half]) * gates.std()
                gates[:, half : 2 * half] = gates[:, :half] + 0.3 * noise
    return policy, (torch.zeros(2, 1, 105, 80, dtype=torch.uint8), None)


def folded(weight: np.ndarray, fibers: np.ndarray) -> np.ndarray:
    """Columns summed over each fiber of the inputs.  (rows, n, ...) -> (rows, k * ...)"""
    sums = [weight[:, fibers == fiber].sum(axis=1) for fiber in range(fibers.max() + 1)]
    return np.stack(sums, axis=1).reshape(len(weight), -1)


def clusters(rows: np.ndarray, threshold: float) -> np.ndarray:
    """scikit-learn's average linkage on cosine distances."""
    model = AgglomerativeClustering(None, metric="cosine", linkage="average", distance_threshold=threshold)
    return number(model.fit_predict(rows))


def joined(*labels: np.ndarray) -> np.ndarray:
    """One label for each combination, numbered by first member."""
    seen: dict[tuple, int] = {}
    return np.array([seen.setdefault(key, len(seen)) for key in zip(*labels, strict=True)])


def recipe(policy: torch.nn.Module, threshold: float, rounds: int) -> dict[str, np.ndarray]:
    """The published recipe for this policy, layer by layer."""
    w = {name: p.detach().double().numpy() for name, p in policy.named_parameters()}
    fibers, found = np.arange(1), {}
    for layer in ("policy.network.0", "policy.network.2", "policy.network.4", "policy.network.7"):
        weight = w[f"{layer}.weight"]
        if weight.ndim == 2:
            weight = weight.reshape(len(weight), len(fibers), -1)
        fibers = clusters(np.column_stack([folded(weight, fibers), w[f"{layer}.bias"]]), threshold)
        found[layer] = fibers
    cell = hidden = np.zeros(512, int)
    for _ in range(rounds):
        w_ih, w_hh = w["recurrent.weight_ih_l0"], w["recurrent.weight_hh_l0"]
        rows = np.column_stack([folded(w_ih, fibers), folded(w_hh, hidden)])
        i, f, g, o = clusters(rows, threshold).reshape(4, 512)
        cell = joined(i, f, g, cell)
        hidden = joined(o, cell)
    return found | {"recurrent": hidden}


def engine(policy: torch.nn.Module, network: Network, threshold: float) -> dict[str, np.ndarray]:
    """The same by the engine."""
    thresholds = {space.name: threshold for space in network.spaces}
    fibers = color_spaces(
        network.spaces, dict(policy.named_parameters()), network.table, thresholds, published=True
    )
    return {space.name: fibers[space.name] for space in network.spaces if not space.whole}


def timed(function: Callable, *args: Any, repeats: int = 5) -> tuple[float, Any]:
    """The median of several runs, in seconds, and the result."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function(*args)
        times.append(time.perf_counter() - start)
    return float(np.median(times)), result


def rounds_of_lstm(policy: torch.nn.Module, network: Network, threshold: float) -> list[float]:
    """Seconds that each round of the LSTM's refinement takes in the engine."""
    times: list[float] = []

    class Timed(Rows):
        def colors(self, *args: Any) -> np.ndarray:
            start = time.perf_counter()
            colors = super().colors(*args)
            if self.space.kind == "lstm":
                times.append(time.perf_counter() - start)
            return colors

    refinement.Rows = Timed  # type: ignore[misc]
    try:
        engine(policy, network, threshold)
    finally:
        refinement.Rows = Rows  # type: ignore[misc]
    return times


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threshold", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    policy, inputs = beam_rider()
    network = network_of(policy, inputs)
    ours, found = timed(engine, policy, network, args.threshold)
    theirs, expected = timed(recipe, policy, args.threshold, args.rounds, repeats=1)
    per_round = rounds_of_lstm(policy, network, args.threshold)
    print(f"{'space':18} {'units':>6} {'fibers':>7}  same as the recipe")
    for name, labels in found.items():
        print(f"{name:18} {len(labels):6} {labels.max() + 1:7}  {np.array_equal(labels, expected[name])}")
    print(f"\nrounds of the LSTM that changed something, or showed that none would: {len(per_round)}")
    print(f"seconds a round, {torch.get_num_threads()} threads: {', '.join(f'{t:.3f}' for t in per_round)}")
    print(f"whole coloring: engine {ours:.2f} s, recipe {theirs:.2f} s: {theirs / ours:.1f} times faster")


if __name__ == "__main__":
    main()
