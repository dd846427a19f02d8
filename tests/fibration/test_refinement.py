"""Refinement: order, fixpoints, and the published recipe for a whole recurrent network."""

import naive
import numpy as np
import pytest
import torch
from scipy.spatial.distance import squareform

from pufferlib_kcore.fibration import coloring
from pufferlib_kcore.fibration.partition import meet, number
from pufferlib_kcore.fibration.quotient import Segment
from pufferlib_kcore.fibration.recurrent import CELLS
from pufferlib_kcore.fibration.refinement import (
    CLUSTERINGS,
    Columns,
    Producer,
    Rows,
    Space,
    blocks,
    color_spaces,
    refine,
)


def recurrent_space(units, name="h", cell="lstm"):
    cell = CELLS[cell]
    columns = (Columns(("w_ih",)), Columns(("w_hh",)), Columns(("b_ih", "b_hh"), cell.biases))
    return Space(name, units, "lstm", (Producer(columns, cell.gates, cell.step),))


def recurrent_table(units, inputs, gates=4, below=None):
    out = (Segment("h", "out", outer=gates, units=units),)
    read = (Segment(below, "in" if below else "", units=inputs),)
    return {
        "w_ih": (out, read),
        "w_hh": (out, (Segment("h", "in", units=units),)),
        "b_ih": (out,),
        "b_hh": (out,),
    }


def chain(units, copies=1):
    """LSTM units that each read the one before; all look alike but the first, which reads the input.

    With copies, each unit's weight is spread over the copies of the unit before.
    """
    gates = torch.tensor([1.0, -0.7, 0.4, 1.3], dtype=torch.float64)
    w_ih, w_hh = (
        torch.zeros(4, units, copies, 1).double(),
        torch.zeros(4, units, copies, units, copies).double(),
    )
    w_ih[:, 0] = gates.flip(0)[:, None, None]
    for unit in range(1, units):
        w_hh[:, unit, :, unit - 1, :] = (gates / copies)[:, None, None]
    bias = torch.zeros(4 * units * copies).double()
    return {
        "w_ih": w_ih.reshape(4 * units * copies, 1),
        "w_hh": w_hh.reshape(4 * units * copies, units * copies),
        "b_ih": bias,
        "b_hh": bias,
    }


@pytest.mark.parametrize("units", [4, 12, 30])
def test_a_chain_of_units_needs_about_as_many_rounds_as_units(units):
    space, axes, tensors = recurrent_space(units), recurrent_table(units, 1), chain(units)

    def fibers_after(rounds):
        return refine([space], tensors, axes, {"h": 0}, {}, rounds)["h"].max() + 1

    assert [fibers_after(r) for r in range(1, units)] == list(range(2, units + 1))
    assert color_spaces([space], tensors, axes, {"h": 0})["h"].labels.tolist() == list(range(units))
    published = color_spaces([space], tensors, axes, {"h": 1e-9}, published=True)["h"].labels
    assert published.max() + 1 == min(units, 6)


def test_twin_chains_become_one():
    tensors = chain(12, copies=3)
    found = color_spaces([recurrent_space(36)], tensors, recurrent_table(36, 1), {"h": 0})["h"].labels
    assert found.tolist() == np.repeat(np.arange(12), 3).tolist()


def counted(monkeypatch, place, name):
    """A list that grows by one whenever a function is called."""
    calls, function = [], getattr(place, name)
    monkeypatch.setattr(place, name, lambda *args: calls.append(args) or function(*args))
    return calls


def test_rounds_that_would_change_nothing_are_skipped(monkeypatch):
    rounds = counted(monkeypatch, Rows, "colors")
    color_spaces([recurrent_space(12)], chain(12), recurrent_table(12, 1), {"h": 0})
    assert len(rounds) == 11  # that split a unit off; then all are apart, and stay so
    rounds.clear()
    color_spaces([recurrent_space(12)], chain(12), recurrent_table(12, 1), {"h": 2})
    assert len(rounds) == 1


def test_biases_count_unless_the_published_recipe_is_asked_for():
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(p.shape, generator=generator).double() for name, p in chain(2).items()}
    for name, p in tensors.items():
        if name != "b_hh":
            gates = p.reshape(4, 2, -1)
            gates[:, 1] = gates[:, 0]
    table, space = recurrent_table(2, 1), recurrent_space(2)
    assert color_spaces([space], tensors, table, {"h": 0})["h"].labels.tolist() == [0, 1]
    assert color_spaces([space], tensors, table, {"h": 1e-9}, published=True)["h"].labels.tolist() == [0, 0]
    tensors["b_ih"] = 1 - tensors["b_hh"]  # only their sum acts
    assert color_spaces([space], tensors, table, {"h": 0})["h"].labels.tolist() == [0, 0]


def test_a_gru_keeps_the_new_gates_biases_apart():
    generator = torch.Generator().manual_seed(0)
    table, space = recurrent_table(2, 1, gates=3), recurrent_space(2, cell="gru")
    tensors = {
        name: torch.randn([3, 1, *shape], generator=generator)
        .double()
        .repeat(1, 2, *[1] * len(shape))
        .flatten(0, 1)
        for name, shape in {"w_ih": [1], "w_hh": [2], "b_ih": [], "b_hh": []}.items()
    }

    def fibers(gate):
        moved = {name: p.clone() for name, p in tensors.items()}
        moved["b_ih"][2 * gate] += 0.5
        moved["b_hh"][2 * gate] -= 0.5
        return color_spaces([space], moved, table, {"h": 0})["h"].labels.max() + 1

    assert [fibers(gate) for gate in range(3)] == [1, 1, 2]


def test_rounds_that_come_back_to_where_they_were_end(monkeypatch):
    rng = np.random.default_rng(885)  # at this threshold two partitions lead to one another
    tensors = {
        "w_ih": torch.from_numpy(rng.normal(size=(16, 2))),
        "w_hh": torch.from_numpy(rng.normal(size=(16, 4)) * 2),
        "b_ih": torch.zeros(16).double(),
        "b_hh": torch.zeros(16).double(),
    }
    cuts = []
    monkeypatch.setattr(coloring, "cut", lambda *args, cut=coloring.cut: cuts.append(1) or cut(*args))
    fibers = refine([recurrent_space(4)], tensors, recurrent_table(4, 2), {"h": 0.8}, {}, rounds=1000)["h"]
    assert fibers.tolist() in ([0, 1, 2, 3], [0, 1, 1, 2]) and len(cuts) < 10


def test_columns_of_a_grus_biases():
    b_ih, b_hh = np.arange(6.0)[:, None], 10.0 * np.arange(1, 7)[:, None]
    expected = [[10, 0], [21, 0], [32, 0], [43, 0], [4, 50], [5, 60]]  # r, z, n of two units
    assert CELLS["gru"].biases(b_ih, b_hh).tolist() == expected


@pytest.mark.parametrize("threshold", [1e-9, 0.3, 0.7, 1.0])
def test_a_grus_partitions_are_those_of_its_definition(threshold):
    rng = np.random.default_rng(0)
    w = {name: rng.normal(size=shape) for name, shape in (("w_ih", (24, 3)), ("w_hh", (24, 8)))}
    w |= {"b_ih": rng.normal(size=24), "b_hh": rng.normal(size=24)}
    for name, x in w.items():
        gates = x.reshape(3, 8, -1)
        w[name] = (gates[:, [0, 1, 2, 3, 0, 1, 2, 0]] + 0.1 * gates).reshape(x.shape)
    hidden = np.zeros(8, int)
    new_gate = np.arange(24) >= 16
    biases = [np.where(new_gate, w["b_ih"], w["b_ih"] + w["b_hh"]), np.where(new_gate, w["b_hh"], 0)]
    for _ in range(8):
        rows = np.column_stack([w["w_ih"], naive.folded(w["w_hh"], hidden), *biases])
        hidden = naive.renumbered(zip(*naive.clusters(rows, threshold).reshape(3, 8), hidden, strict=True))
    tensors = {name: torch.from_numpy(x) for name, x in w.items()}
    table = recurrent_table(8, 3, gates=3)
    found = color_spaces([recurrent_space(8, cell="gru")], tensors, table, {"h": threshold})["h"].labels
    np.testing.assert_array_equal(found, hidden)


def test_units_once_apart_stay_apart_on_a_cycle():
    """Two layers that read each other: each round refines the last."""
    rng = np.random.default_rng(3)
    spaces, table, tensors = [], {}, {}
    for name, other in (("a", "b"), ("b", "a")):
        space, axes = linear(name, 7, (other, 7))
        spaces.append(space)
        table |= axes
        tensors[name] = torch.from_numpy(rng.normal(size=(7, 7)))
        tensors[f"{name}.bias"] = torch.zeros(7).double()
    found = [refine(spaces, tensors, table, {"a": 0.8, "b": 0.8}, {}, rounds) for rounds in range(1, 8)]
    for earlier, later in zip(found, found[1:], strict=False):
        for name in "ab":
            np.testing.assert_array_equal(meet(earlier[name], later[name]), later[name])
    assert found[0]["a"].max() < found[-1]["a"].max()


def linear(name, units, *read):
    space = Space(name, units, "linear", (Producer((Columns((name,)), Columns((name + ".bias",)))),))
    out = (Segment(name, "out", units=units),)
    return space, {name: (out, tuple(Segment(r, "in", units=u) for r, u in read)), name + ".bias": (out,)}


def test_spaces_come_after_what_they_read_and_cycles_together():
    names = {"c": ["b"], "b": ["a", "d"], "d": ["c"], "a": [], "e": ["d", "a"]}
    spaces, table = [], {}
    for name, read in names.items():
        space, axes = linear(name, 3, *((r, 3) for r in read))
        spaces.append(space)
        table |= axes
    order = [{space.name for space in block} for block in blocks(spaces, table)]
    assert order == [{"a"}, {"b", "c", "d"}, {"e"}]


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.8, 1.1, 1.6])
@pytest.mark.parametrize("trained", [False, True])
def test_published_partitions_are_the_recipes(threshold, trained):
    """A convolution, flattened into a linear layer, into an LSTM."""
    rng = np.random.default_rng(1)
    shapes = {"conv": (10, 2, 3, 3), "conv.bias": (10,), "fc": (14, 10 * 4), "fc.bias": (14,)}
    shapes |= {"w_ih": (4 * 12, 14), "w_hh": (4 * 12, 12), "b_ih": (48,), "b_hh": (48,)}
    w = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    if trained:  # rows near one another, of several sizes, as training makes them
        for name in ("conv", "fc"):
            w[name] = w[name][rng.integers(0, 4, len(w[name]))] + 0.2 * w[name]
        for name in ("w_ih", "w_hh"):
            gates = w[name].reshape(4, 12, -1)
            w[name] = (gates[:, rng.integers(0, 3, 12)] + 0.2 * gates).reshape(48, -1)
            w[name] *= rng.lognormal(size=(48, 1))
    tensors = {name: torch.from_numpy(x) for name, x in w.items()}

    conv = Space("conv", 10, "cnn", (Producer((Columns(("conv",)), Columns(("conv.bias",)))),))
    fc, axes = linear("fc", 14)
    axes["fc"] = (axes["fc"][0], (Segment("conv", "in", units=10, inner=4),))
    kernel = tuple((Segment(None, units=size),) for size in (2, 3, 3))
    table = {
        "conv": ((Segment("conv", "out", units=10),), *kernel),
        "conv.bias": ((Segment("conv", "out", units=10),),),
    }
    table |= axes | recurrent_table(12, 14, below="fc")
    spaces = [recurrent_space(12), fc, conv]
    found = color_spaces(
        spaces, tensors, table, dict.fromkeys(["conv", "fc", "h"], threshold), published=True
    )
    found = {name: merge.labels for name, merge in found.items()}

    unfolded = np.arange(2)  # observations are never merged
    np.testing.assert_array_equal(found["conv"], naive.layer(w["conv"], w["conv.bias"], unfolded, threshold))
    expected = naive.layer(w["fc"].reshape(14, 10, 4), w["fc.bias"], found["conv"], threshold)
    np.testing.assert_array_equal(found["fc"], expected)
    np.testing.assert_array_equal(found["h"], naive.lstm(w["w_ih"], w["w_hh"], found["fc"], threshold))
    assert threshold != 0.8 or not trained or 1 < found["h"].max() + 1 < 12


def lstm(units, inputs, seed, copies=1, noise=0.0):
    """Random weights; with copies, units are near copies of fewer."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in {"w_ih": (inputs,), "w_hh": (units,), "b_ih": (), "b_hh": ()}.items():
        few = rng.normal(size=(4, units // copies, *shape))
        x = np.concatenate([few] * copies, axis=1)
        x = x + noise * rng.normal(size=x.shape)
        tensors[name] = torch.from_numpy(x.reshape(-1, *shape) / units**0.5)
    return recurrent_space(units), tensors, recurrent_table(units, inputs)


def test_identity_compares_no_pairs(monkeypatch):
    for name in ("linkage", "inner_products", "distances"):
        monkeypatch.setattr(coloring, name, None)
    space, tensors, table = lstm(24, 5, 0, copies=2)
    assert color_spaces([space], tensors, table, {"h": 0})["h"].labels.tolist() == [*range(12)] * 2


@pytest.mark.parametrize("copies, noise", [(1, 0), (2, 0.1), (2, 0.4)])
def test_few_linkages_are_enough_at_every_threshold(monkeypatch, copies, noise):
    linkages = counted(monkeypatch, coloring, "linkage")
    for seed in range(3):
        space, tensors, table = lstm(64, 3, seed, copies, noise)
        for threshold in (1e-9, 0.1, 0.5, 0.9, 1.0, 1.01, 1.02, 1.04, 1.07, 1.5, 2):
            linkages.clear()
            color_spaces([space], tensors, table, {"h": threshold})
            assert len(linkages) <= CLUSTERINGS <= 12


@pytest.mark.parametrize("threshold", [1e-9, 0.3])
def test_few_linkages_are_enough_for_a_chain_and_it_is_found_to_its_end(monkeypatch, threshold):
    linkages = counted(monkeypatch, coloring, "linkage")
    found = color_spaces([recurrent_space(60)], chain(30, 2), recurrent_table(60, 1), {"h": threshold})["h"]
    assert found.labels.tolist() == np.repeat(np.arange(30), 2).tolist()
    assert 2 < len(linkages) <= CLUSTERINGS <= 12


@pytest.mark.parametrize("threshold", [0.01, 0.3, 0.7])
@pytest.mark.parametrize("by_size", [False, True])
def test_what_is_parted_is_near_on_average(threshold, by_size):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6, 8))[rng.integers(0, 6, 60)] + 0.3 * rng.normal(size=(60, 8))
    rows[rng.random(60) < 0.1] = 0
    norms = np.linalg.norm(rows, axis=1)
    apart = squareform(coloring.distances(coloring.inner_products(rows), norms, norms, by_size))
    before = labels = number(rng.integers(0, 3, 60))
    while not np.array_equal(labels, after := coloring.part(rows, threshold, labels, by_size)):
        np.testing.assert_array_equal(meet(after, labels), after)
        for group in range(labels.max() + 1):  # in two, where one was too far; else not at all
            one = labels == group
            too_far = apart[np.ix_(one, one)].mean(axis=1).max() > threshold
            assert len(set(after[one])) == 1 + too_far
        labels = after
    assert before.max() < labels.max() < 59


def test_parts_that_are_near_enough_stay():
    rows = np.random.default_rng(0).normal(size=(30, 8))
    for labels in (number(np.arange(30) % 4), np.zeros(30, int)):
        np.testing.assert_array_equal(coloring.part(rows, 1.9, labels), labels)


def test_near_copies_are_found_on_a_cycle_as_they_were_planted():
    for noise in (1e-3, 1e-2, 1e-1):
        space, tensors, table = lstm(64, 12, 0, copies=2, noise=noise)
        found = color_spaces([space], tensors, table, {"h": max(1e-4, 30 * noise**2)})["h"].labels
        assert found.tolist() == [*range(32)] * 2


@pytest.mark.parametrize("threshold", [0, 1e-9, 1, 1.999, 2])
def test_one_unit_and_thresholds_at_the_edges(threshold):
    space, tensors, table = lstm(1, 3, 0)
    gates = (Segment("h", "out", inner=4),)  # of one unit, gates may as well be places
    for axes in (table, {name: (gates, *axes[1:]) for name, axes in table.items()}):
        assert color_spaces([space], tensors, axes, {"h": threshold})["h"].labels.tolist() == [0]
    space, tensors, table = lstm(8, 3, 0)
    fibers = color_spaces([space], tensors, table, {"h": threshold})["h"].labels.max() + 1
    assert fibers == 1 if threshold > 1.9 else fibers == 8 if threshold < 0.1 else 1 <= fibers <= 8
