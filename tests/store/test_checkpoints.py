"""Laws of checkpoints: whole or absent, plain, and nothing in a file is run by reading it."""

import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections import OrderedDict, namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store import atomic, checkpoints
from pufferlib_kcore.store.checkpoints import MODEL, STATE, Unfit, load, save


def model(**more):
    policy = {"name": "Default", "rnn": None, "policy_args": {"hidden_size": 8}, "rnn_args": {}}
    weights = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}
    shapes = {name: list(weight.shape) for name, weight in weights.items()}
    head = {"format": MODEL, "version": 1, "policy": policy, "shapes": shapes, "state_dict": weights}
    return {**head, "epoch": 3, "agent_steps": 92160, **more}


def state(**more):
    optimizer = {"state": {0: {"step": torch.tensor(5.0), "exp_avg": torch.ones(2)}}, "param_groups": []}
    return {"format": STATE, "version": 1, "optimizer": optimizer, "epoch": 3, "agent_steps": 92160, **more}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def sentence(error):
    """The message, checked to be one line that names what was wrong."""
    text = str(error.value)
    assert "\n" not in text and ";" in text, text  # a cure follows the complaint
    return text


# --- round trips --------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [model(), state(), model(env={"kwargs": {"n": [1, (2, None), b"x"]}})])
def test_what_is_saved_is_loaded(tmp_path, payload):
    path = save(tmp_path / "model_000003.pt", payload)
    assert same(load(path), payload)
    assert [file.name for file in tmp_path.iterdir()] == ["model_000003.pt"]


def test_a_module_and_an_optimizer_come_back_as_plain_data(tmp_path):
    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    back = load(save(tmp_path / "m.pt", model(state_dict=net.state_dict(), live=net.weight)))
    assert type(back["state_dict"]) is dict and not back["live"].requires_grad
    assert torch.equal(back["state_dict"]["weight"], net.weight)
    again = load(save(tmp_path / "s.pt", state(optimizer=optimizer.state_dict())))["optimizer"]
    assert same(again, checkpoints.plain(optimizer.state_dict()))
    optimizer.load_state_dict(again)


def test_scalars_of_numpy_become_plain(tmp_path):
    back = load(save(tmp_path / "m.pt", model(x={"a": np.float64(0.5), "b": [np.int64(3), np.bool_(True)]})))
    assert same(back["x"], {"a": 0.5, "b": [3, True]})


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    "thing", [np.zeros(2), {1, 2}, Path("x"), len, Pair(1, 2), torch.nn.ReLU(), torch.float32]
)
def test_anything_else_is_refused_by_its_key(tmp_path, thing):
    with pytest.raises(TypeError, match=r"'env.kwargs\[1\].inner'"):
        save(tmp_path / "m.pt", model(env={"kwargs": [0, {"inner": thing}]}))
    with pytest.raises(TypeError, match="keys of a checkpoint"):
        save(tmp_path / "m.pt", model(env={(1, 2): 0}))
    assert list(tmp_path.iterdir()) == []


def test_an_incomplete_payload_is_not_written(tmp_path):
    for payload in ({}, model(format="other"), model(version=2), {**state(), "format": MODEL}, [model()]):
        with pytest.raises(ValueError, match="cannot save"):
            save(tmp_path / "m.pt", payload)
    assert list(tmp_path.iterdir()) == []


def test_a_view_is_saved_without_what_it_is_a_view_of(tmp_path):
    big = torch.zeros(1000, 1000)
    path = save(tmp_path / "m.pt", model(state_dict={"w": big[:2, :2]}))
    assert path.stat().st_size < 10_000


def test_saving_edits_nothing(tmp_path):
    payload = model(state_dict=OrderedDict(w=torch.ones(2, requires_grad=True)))
    weights = payload["state_dict"]
    save(tmp_path / "m.pt", payload)
    assert payload["state_dict"] is weights and type(weights) is OrderedDict and weights["w"].requires_grad


# --- whole or absent ----------------------------------------------------------------------------


NURSERY = """
import os, sys, torch
from pufferlib_kcore.store.checkpoints import save
head = {"format": "pufferlib_kcore", "version": 1, "policy": {}, "shapes": {}, "agent_steps": 0}
for _ in sys.stdin:
    if os.fork():
        os.wait()
        continue
    print(os.getpid(), flush=True)
    for n in range(1, 1_000_000):
        weights = {"w": torch.full((200_000,), float(n))}
        save(f"{sys.argv[1]}/model_00000{n % 3}.pt", {**head, "state_dict": weights, "epoch": n})
        if n == 3:
            print("all three", flush=True)
"""


def test_a_kill_in_the_middle_of_saves_leaves_whole_files_only(tmp_path):
    nursery = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", NURSERY, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with nursery:
        for attempt in range(40):
            print("one more writer", file=nursery.stdin, flush=True)
            writer = int(nursery.stdout.readline())
            assert nursery.stdout.readline() == "all three\n"
            time.sleep(0.0007 * attempt)
            os.kill(writer, signal.SIGKILL)
            files = sorted(tmp_path.glob("model_*.pt"))
            assert len(files) == 3
            for path in files:
                payload = load(path)
                assert (payload["state_dict"]["w"] == payload["epoch"]).all()
        nursery.stdin.close()
    assert list(tmp_path.glob(".*.tmp"))  # some kills did fall into a save
    atomic.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"model_00000{n}.pt" for n in range(3)]


class Killed(BaseException):
    """Stands for a kill at one point of a write."""


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_until_the_rename_the_old_file_stands(tmp_path, monkeypatch, step):
    path = save(tmp_path / "m.pt", model(epoch=1))

    def stop(*_):
        assert load(path)["epoch"] == 1
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, step, stop)
        with pytest.raises(Killed):
            save(path, model(epoch=2))
    assert load(path)["epoch"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["m.pt"]


def test_content_is_on_disk_before_the_name_is(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, _n=name, _r=real: (calls.append(_n), _r(*a))[1])
    save(tmp_path / "m.pt", model())
    assert calls == ["fsync", "replace", "fsync"]  # file, name, folder


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    path = save(tmp_path / "m.pt", model(epoch=1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot write .*; free space") as error:
            save(path, model(epoch=2, state_dict={"w": torch.zeros(100_000)}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    sentence(error)
    assert load(path)["epoch"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["m.pt"]


def test_a_missing_folder_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="cannot write") as error:
        save(tmp_path / "nowhere" / "m.pt", model())
    sentence(error)


# --- bad files ----------------------------------------------------------------------------------


class Hostile:
    """A pickle that would make a file when loaded."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("way", ["archive", "legacy", "pickle"])
def test_a_hostile_file_is_refused_and_runs_nothing(tmp_path, way):
    path, target = tmp_path / "model_000003.pt", tmp_path / "touched"
    payload = model(extra=Hostile(target))
    if way == "pickle":
        path.write_bytes(pickle.dumps(payload))
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=way == "archive")
    with pytest.raises(UserError, match="--trust-checkpoint") as error:
        load(path)
    sentence(error)
    assert not target.exists()
    torch.load(path, weights_only=False) if way != "pickle" else pickle.loads(path.read_bytes())
    assert target.exists()  # it was hostile indeed


def test_each_kind_of_bad_file_is_one_sentence(tmp_path):
    whole = save(tmp_path / "whole.pt", model()).read_bytes()
    bad = tmp_path / "bad.pt"
    for content, words in [
        (b"", "is empty"),
        (b"hello\nworld\n", "is no checkpoint"),
        (whole[:4], "damaged or cut short"),
        (os.urandom(500).replace(b"\x80", b"x"), "is no checkpoint"),
        (pickle.dumps({"a": 1})[:-3], "--trust-checkpoint|damaged"),
    ]:
        bad.write_bytes(content)
        with pytest.raises(UserError, match=words) as error:
            load(bad)
        assert str(bad) in sentence(error)
    for path, words in [(tmp_path, "is a folder"), (tmp_path / "none.pt", "no checkpoint .*--mode train")]:
        with pytest.raises(UserError, match=words) as error:
            load(path)
        sentence(error)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    whole = save(tmp_path / "whole.pt", model()).read_bytes()
    bad = tmp_path / "bad.pt"
    for length in range(5, len(whole), 37):
        bad.write_bytes(whole[:length])
        with pytest.raises(UserError, match="damaged or cut short"):
            load(bad)


def test_a_flipped_byte_of_a_weight_is_noticed(tmp_path):
    weight = torch.full((1000,), 1.2345)
    whole = bytearray(save(tmp_path / "m.pt", model(state_dict={"w": weight})).read_bytes())
    start = bytes(whole).index(weight.numpy().tobytes())
    whole[start + 2001] ^= 0x10
    (tmp_path / "m.pt").write_bytes(whole)
    with pytest.raises(UserError, match="damaged"):
        load(tmp_path / "m.pt")


def test_foreign_files_are_refused_with_what_was_expected(tmp_path):
    path = tmp_path / "m.pt"
    for content, words in [
        ({"weight": torch.ones(2)}, "holds no checkpoint of pufferlib_kcore"),
        (torch.ones(2), "holds no checkpoint"),
        (model(format="other"), "holds no checkpoint"),
        (model(version=99), "version 99"),
        ({key: value for key, value in model().items() if key != "policy"}, "lacks policy"),
    ]:
        torch.save(content, path)
        with pytest.raises(UserError, match=words) as error:
            load(path)
        sentence(error)


@pytest.mark.parametrize(
    "number, word", [(float("nan"), "NaN"), (float("inf"), "infinity"), (-float("inf"), "infinity")]
)
def test_moments_that_are_no_numbers_are_refused_by_file_and_name(tmp_path, number, word):
    odd = torch.tensor([1.0, number])
    moments = {"state": {3: {"step": torch.tensor(5.0), "exp_avg": odd}}, "param_groups": []}
    rate = {"state": {}, "param_groups": [{"lr": number, "params": [0]}]}
    for optimizer, name in ((moments, "state.3.exp_avg"), (rate, "param_groups.0.lr")):
        path = save(tmp_path / "m.pt", state(optimizer=optimizer))
        with pytest.raises(Unfit, match=rf"m\.pt: {name} holds {word}") as error:
            load(path)
        sentence(error)


def test_counts_and_what_is_not_computed_with_may_be_what_they_like(tmp_path):
    counts = {"n": torch.tensor([2**40]), "mask": torch.tensor([True]), "none": torch.zeros(0)}
    payload = model(state_dict=counts, env={"kwargs": {"low": -float("inf")}})
    assert same(load(save(tmp_path / "m.pt", payload)), payload)


def test_damage_can_be_told_from_what_is_no_checkpoint(tmp_path):
    path = save(tmp_path / "m.pt", model())
    whole = path.read_bytes()
    for content in (b"", whole[:100], whole[:-10]):
        path.write_bytes(content)
        with pytest.raises(Unfit):
            load(path)
    for foreign in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(UserError) as error:
            load(foreign)
        assert not isinstance(error.value, Unfit)


def test_a_digest_is_of_what_a_file_holds(tmp_path):
    one, other = (tmp_path / name for name in ("a", "b"))
    for path in (one, other):
        path.write_bytes(b"x" * 3_000_000)
    assert checkpoints.digest(one) == checkpoints.digest(other)
    other.write_bytes(b"x" * 2_999_999 + b"y")
    assert checkpoints.digest(one) != checkpoints.digest(other)
    with pytest.raises(UserError, match="cannot read"):
        checkpoints.digest(tmp_path / "none")


def test_weights_and_states_are_not_mixed_up(tmp_path):
    weights, optimizer = save(tmp_path / "m.pt", model()), save(tmp_path / "s.pt", state())
    assert load(weights, format=MODEL)["epoch"] == load(optimizer, format=STATE)["epoch"] == 3
    with pytest.raises(UserError, match="holds a policy's weights .*expected an optimizer's state"):
        load(weights, format=STATE)
    with pytest.raises(UserError, match="holds an optimizer's state .*expected a policy's weights"):
        load(optimizer, format=MODEL)


def test_a_pickled_module_needs_trust(tmp_path):
    path = tmp_path / "m.pt"
    net = torch.nn.Sequential(torch.nn.Linear(3, 2))
    torch.save(net, path)
    with pytest.raises(UserError, match="--trust-checkpoint"):
        load(path)
    found = load(path, trust=True)
    assert found["format"] == "module" and torch.equal(found["module"][0].weight, net[0].weight)
    torch.save([net], path)
    with pytest.raises(UserError, match="holds a list, expected a torch.nn.Module"):
        load(path, trust=True)


def test_a_trusted_module_without_its_code_says_so(tmp_path, monkeypatch):
    path = tmp_path / "m.pt"
    kind = type("Gone", (torch.nn.Linear,), {"__module__": __name__})
    monkeypatch.setitem(globals(), "Gone", kind)
    torch.save(kind(1, 1), path)
    monkeypatch.delitem(globals(), "Gone")
    with pytest.raises(UserError, match="needs code that is not here") as error:
        load(path, trust=True)
    sentence(error)


def test_trust_does_not_bypass_the_checks_of_our_own_files(tmp_path):
    path = save(tmp_path / "m.pt", model())
    assert same(load(path, trust=True), model())
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="damaged"):
        load(path, trust=True)
