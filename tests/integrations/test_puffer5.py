"""PufferLib 5's weight files: a reader written from their description finds what was written."""

import struct

import pytest
import torch

from pufferlib_kcore import graph
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.integrations import puffer5
from pufferlib_kcore.integrations.puffer5 import Puffer5Policy, Sizes

ODD = Sizes(observations=5, actions=3, hidden=8, layers=2)
SIZES = [ODD, Sizes(3, 2, 16, 1, True), Sizes(7, 4, 24, 3), Sizes(1, 5, 8, 1, True)]


def described(path, sizes):
    """Number after number: name -> rows, by the description alone."""
    content = path.read_bytes()
    numbers = struct.unpack(f"<{len(content) // 4}f", content)
    h = sizes.hidden
    shapes = [("encoder", h, sizes.observations), ("decoder", sizes.actions + 1, h)]
    shapes += [("deviations", 1, sizes.actions)] if sizes.continuous else []
    shapes += [(f"mingru{i}", 3 * h, h) for i in range(sizes.layers)]
    found, at = {}, 0
    for name, rows, columns in shapes:
        while at % 8:
            assert numbers[at] == 0
            at += 1
        found[name] = [list(numbers[at + r * columns : at + (r + 1) * columns]) for r in range(rows)]
        at += rows * columns
    assert at <= len(numbers) < at + 8 and not any(numbers[at:])
    return found


@pytest.fixture
def written(tmp_path):
    def make(sizes, seed=0):
        torch.manual_seed(seed)
        policy = Puffer5Policy(sizes)
        if sizes.continuous:
            policy.log_std.data.normal_()
        puffer5.write(policy, tmp_path / "weights.bin")
        return policy, tmp_path / "weights.bin"

    return make


@pytest.mark.parametrize("sizes", SIZES)
def test_a_file_is_as_described(written, sizes):
    policy, path = written(sizes)
    found = described(path, sizes)
    assert found["encoder"] == policy.encoder.weight.tolist()
    assert found["decoder"] == policy.decoder.weight.tolist()
    assert found.get("deviations") == (policy.log_std.tolist() if sizes.continuous else None)
    for i, layer in enumerate(policy.layers):
        assert found[f"mingru{i}"] == layer.weight.tolist()


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("padded", [True, False])
def test_what_is_read_is_what_was_written(written, sizes, padded):
    policy, path = written(sizes)
    if not padded:  # zeros behind the last tensor may be missing
        used = max(start + x.numel() for _, start, x in puffer5._places(policy))
        path.write_bytes(path.read_bytes()[: 4 * used])
    again = puffer5.read(path, sizes)
    assert puffer5.sizes_of(again) == sizes
    assert all(map(torch.equal, again.parameters(), policy.parameters()))


@pytest.mark.parametrize("continuous", [False, True])
def test_a_collapsed_policy_goes_back(written, tmp_path, continuous):
    sizes = Sizes(5, 3, 32, 2, continuous)
    _, path = written(sizes)
    x, state = torch.randn(4, 5), torch.zeros(2, 4, 32)
    found = graph.collapse(puffer5.read(path, sizes), (x, state), 2, method="forward_eval", round_to=8)
    smaller, there = puffer5.sizes_of(found.policy), tmp_path / "small.bin"
    assert smaller.hidden % 8 == 0 and smaller.hidden < 32
    puffer5.write(found.policy, there)
    assert described(there, smaller)["encoder"] == found.policy.encoder.weight.tolist()
    given = x, torch.zeros(2, 4, smaller.hidden)
    again = puffer5.read(there, smaller).forward_eval(*given)
    assert all(map(torch.equal, again, found.policy.forward_eval(*given)))


def test_the_value_is_the_decoders_last_row():
    policy = Puffer5Policy(ODD)
    with torch.no_grad():
        policy.decoder.weight[-1] = 0
        actions, value, _ = policy.forward_eval(torch.randn(4, 5), torch.rand(2, 4, 8))
    assert actions.shape == (4, 3) and not value.any() and actions.any()


@pytest.mark.parametrize(
    "wrong",
    [Sizes(6, 3, 8, 2), Sizes(5, 4, 8, 2), Sizes(5, 3, 16, 2), Sizes(5, 3, 8, 1), Sizes(5, 3, 8, 2, True)],
)
def test_other_sizes_are_refused(written, wrong):
    with pytest.raises(UserError, match="holds .* numbers and .* needs .*: give the sizes"):
        puffer5.read(written(ODD)[1], wrong)


@pytest.mark.parametrize("size", [12, -4, 0])
def test_sizes_that_no_policy_has_are_refused(written, size):
    with pytest.raises(UserError, match=f"hidden is {size}: expected"):
        puffer5.read(written(ODD)[1], Sizes(5, 3, size, 2))


@pytest.mark.parametrize(
    "change", [lambda b: b[:-1], lambda b: b[:-32], lambda b: b + b"\0" * 4, lambda b: b""]
)
def test_other_lengths_are_refused(written, change):
    path = written(ODD)[1]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match="numbers and"):
        puffer5.read(path, ODD)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused_both_ways(written, bad):
    policy, path = written(ODD)
    before = path.read_bytes()
    policy.layers[1].weight.data[3, 2] = bad
    with pytest.raises(UserError, match="layers.1.weight holds NaN"):
        puffer5.write(policy, path)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == [path.name]
    path.write_bytes(struct.pack("<f", bad) + before[4:])
    with pytest.raises(UserError, match="holds NaN or infinity"):
        puffer5.read(path, ODD)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(UserError, match="none.bin cannot be read: No such file"):
        puffer5.read(tmp_path / "none.bin", ODD)
    with pytest.raises(UserError, match="cannot be written: No such file"):
        puffer5.write(Puffer5Policy(ODD), tmp_path / "no" / "where.bin")
