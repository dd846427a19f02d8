"""Quotients: collapse, lift and their transposes on a table with every kind of segment."""

import numpy as np
import pytest
import torch

from pufferlib_kcore.fibration.partition import number
from pufferlib_kcore.fibration.quotient import PICK, Merge, Segment, carry, collapse, dual, lift

FIBERS = {"a": number(np.array([0, 1, 0, 2, 1, 0])), "b": number(np.array([0, 1, 1, 2]))}


def table(units):
    """Gates, channels of five places each, a concatenation, a protected stretch."""
    a, b = units["a"], units["b"]
    return {
        "gates": ((Segment("a", "out", outer=4, units=a),), (Segment("a", "in", units=a),)),
        "flat": ((Segment("b", "out", units=b),), (Segment("a", "in", units=a, inner=5),)),
        "both": (
            (Segment(None, units=3),),
            (
                Segment("a", "in", units=a),
                Segment(None, units=2),
                Segment("b", "in", outer=2, units=b, inner=3),
            ),
        ),
        "bias": ((Segment("b", "out", units=b),),),
        "backwards": ((Segment("a", "in", units=a),), (Segment("b", "out", units=b),)),
    }


LARGE = table({name: len(labels) for name, labels in FIBERS.items()})
SMALL = table({name: int(labels.max()) + 1 for name, labels in FIBERS.items()})


def random_tensors(axes_of, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(
            [sum(s.length for s in axis) for axis in axes], generator=generator, dtype=torch.float64
        )
        for name, axes in axes_of.items()
    }


def inner(x, y):
    return sum((x[name] * y[name]).sum() for name in x)


@pytest.mark.parametrize("uneven", [False, True])
def test_collapse_undoes_every_lift(uneven):
    base = random_tensors(SMALL)
    large = lift(base, SMALL, FIBERS, torch.Generator().manual_seed(1) if uneven else None)
    assert {name: x.shape for name, x in large.items()} == {
        name: x.shape for name, x in random_tensors(LARGE).items()
    }
    for name, x in collapse(large, LARGE, FIBERS).items():
        torch.testing.assert_close(x, base[name], rtol=1e-12, atol=1e-12)


def test_collapse_by_hand():
    weight = torch.arange(12.0, dtype=torch.float64).reshape(3, 4)  # rows 0 and 2, columns 1 and 2 merge
    axes = ((Segment("rows", "out", units=3),), (Segment("columns", "in", units=4),))
    fibers = {"rows": np.array([0, 1, 0]), "columns": np.array([0, 1, 1, 2])}
    found = collapse({"w": weight}, {"w": axes}, fibers)["w"]
    assert found.tolist() == [[4, 11, 7], [4, 11, 7]]
    found = dual({"w": weight}, {"w": axes}, fibers)["w"]
    assert found.tolist() == [[8, 11, 14], [4, 5.5, 7]]


def test_the_equations_of_the_docstrings():
    """With P[a, i] = p_i, G[a, i] = g_i where i is in a: B = P W G', dual(W) = G W P', lift(B) = G' B P."""
    rng = np.random.default_rng(0)
    merges = {name: Merge.mean(labels, rng.uniform(0.2, 5, len(labels))) for name, labels in FIBERS.items()}
    table = {"w": ((Segment("a", "out", units=6),), (Segment("b", "in", units=4),))}
    small = {"w": ((Segment("a", "out", units=3),), (Segment("b", "in", units=3),))}
    (pick_a, gain_a), (pick_b, gain_b) = (
        [
            torch.as_tensor(np.eye(3)[merges[name].labels].T * w)
            for w in (merges[name].pick, merges[name].gain)
        ]
        for name in "ab"
    )
    w, base = random_tensors(table)["w"], random_tensors(small)["w"]
    for found, expected in (
        (collapse({"w": w}, table, merges), pick_a @ w @ gain_b.T),
        (dual({"w": w}, table, merges), gain_a @ w @ pick_b.T),
        (lift({"w": base}, small, merges), gain_a.T @ base @ pick_b),
    ):
        torch.testing.assert_close(found["w"], expected, rtol=1e-12, atol=1e-12)
    uneven = lift({"w": base}, small, merges, torch.Generator().manual_seed(0))["w"]
    noise = uneven - gain_a.T @ base @ pick_b
    assert noise.abs().max() > 0.1
    torch.testing.assert_close(noise @ gain_b.T, torch.zeros(6, 3).double(), rtol=0, atol=1e-12)


def test_the_dual_map_is_the_transpose_of_the_lift():
    base, gradient = random_tensors(SMALL), random_tensors(LARGE, 1)
    torch.testing.assert_close(
        inner(lift(base, SMALL, FIBERS), gradient),
        inner(base, dual(gradient, LARGE, FIBERS)),
        rtol=1e-12,
        atol=0,
    )


def test_an_average_of_equal_entries_is_that_entry():
    x = torch.full((24, 6), 3.0)
    torch.testing.assert_close(carry(x, LARGE["gates"], FIBERS, PICK), torch.full((12, 3), 3.0))


def test_precision_is_kept_and_arguments_are_untouched():
    large = {name: x.half() for name, x in random_tensors(LARGE).items()}
    before = {name: x.clone() for name, x in large.items()}
    small = collapse(large, LARGE, FIBERS)
    assert all(x.dtype == torch.half for x in small.values())
    assert all(torch.equal(large[name], before[name]) for name in large)


def test_spaces_without_fibers_stay():
    large = random_tensors(LARGE)
    small = collapse(large, LARGE, {"a": FIBERS["a"]})
    torch.testing.assert_close(small["bias"], large["bias"])
    assert small["gates"].shape == (12, 3)
