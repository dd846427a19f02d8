"""Stable-Baselines3's models: planted copies merge, nothing else changes, and what is left learns on."""

import pickle
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.graph import lift
from pufferlib_kcore.integrations import sb3

stable = pytest.importorskip("stable_baselines3")

from pufferlib_kcore.integrations.sb3 import states, surgery  # noqa: E402


class Toy(gymnasium.Env):
    """Observations of any space; episodes of 20 steps."""

    def __init__(self, space="vector", continuous=False):
        image = gymnasium.spaces.Box(0, 255, (1, 36, 36), np.uint8)
        vector = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
        both = gymnasium.spaces.Dict({"see": image, "feel": vector})
        self.observation_space = {"vector": vector, "image": image, "both": both}[space]
        self.action_space = (
            gymnasium.spaces.Box(-2, 2, (2,), np.float32) if continuous else gymnasium.spaces.Discrete(3)
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(0 if seed is None else seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.steps += 1
        return self.observation_space.sample(), float(np.sum(action)), self.steps == 20, False, {}


FEW = {"features_extractor_kwargs": {"features_dim": 6}}
ON, OFF = {"n_steps": 8}, {"learning_starts": 4, "buffer_size": 64, "batch_size": 8}
SMALL = {"net_arch": [6, 5]}
PI_VF = {"net_arch": {"pi": [6, 5], "vf": [4]}}
MODELS = {
    "PPO": ("PPO", "MlpPolicy", {}, {**ON, "batch_size": 8}, PI_VF),
    "PPO continuous": ("PPO", "MlpPolicy", {"continuous": True}, {**ON, "batch_size": 8}, SMALL),
    "PPO gSDE": ("PPO", "MlpPolicy", {"continuous": True}, {**ON, "batch_size": 8, "use_sde": True}, SMALL),
    "A2C": ("A2C", "MlpPolicy", {}, ON, SMALL),
    "A2C images": ("A2C", "CnnPolicy", {"space": "image"}, ON, FEW),
    "PPO two extractors": (
        "PPO", "CnnPolicy", {"space": "image"}, {**ON, "batch_size": 8},
        {"features_extractor_kwargs": {"features_dim": 6}, "share_features_extractor": False},
    ),
    "A2C dict": (
        "A2C", "MultiInputPolicy", {"space": "both"}, ON,
        {**SMALL, "features_extractor_kwargs": {"cnn_output_dim": 6}},
    ),
    "DQN": ("DQN", "MlpPolicy", {}, OFF, SMALL),
    "DQN images": ("DQN", "CnnPolicy", {"space": "image"}, OFF, FEW),
    "SAC": ("SAC", "MlpPolicy", {"continuous": True}, OFF, SMALL),
    "SAC gSDE": ("SAC", "MlpPolicy", {"continuous": True}, {**OFF, "use_sde": True}, SMALL),
    "SAC shared images": (
        "SAC", "CnnPolicy", {"space": "image", "continuous": True}, OFF,
        {**SMALL, "share_features_extractor": True, "features_extractor_kwargs": {"features_dim": 6}},
    ),
    "TD3": ("TD3", "MlpPolicy", {"continuous": True}, OFF, SMALL),
    "DDPG": ("DDPG", "MlpPolicy", {"continuous": True}, OFF, {"net_arch": {"pi": [5], "qf": [6, 4]}}),
    "RecurrentPPO": (
        "RecurrentPPO", "MlpLstmPolicy", {}, {**ON, "batch_size": 8}, {**SMALL, "lstm_hidden_size": 6}
    ),
    "RecurrentPPO shared": (
        "RecurrentPPO", "MlpLstmPolicy", {}, {**ON, "batch_size": 8},
        {**SMALL, "lstm_hidden_size": 6, "n_lstm_layers": 2, "shared_lstm": True,
         "enable_critic_lstm": False},
    ),
    "RecurrentPPO no critic's": (
        "RecurrentPPO", "MlpLstmPolicy", {}, {**ON, "batch_size": 8},
        {**SMALL, "lstm_hidden_size": 6, "enable_critic_lstm": False},
    ),
}  # fmt: skip


def made(name):
    kind, policy, world, how, kwargs = MODELS[name]
    package = pytest.importorskip("sb3_contrib") if kind == "RecurrentPPO" else stable
    how = {"device": "cpu", "seed": 0, "policy_kwargs": dict(kwargs), **how}
    return getattr(package, kind)(policy, Toy(**world), **how)


def planted(name, extra=3):
    """A model, `extra` copies in each space that can grow; and what it was before.  In-weights are split
    unevenly, and targets are not what the online networks are."""
    base = made(name)
    base.learn(24)
    large = surgery._twin(base)
    traced = sb3.trace(base)
    fibers = {
        s.name: np.r_[np.arange(s.units), np.arange(extra) % s.units]
        for s in traced.network.spaces
        if not s.whole
    }
    lifted = lift(traced, None, fibers, generator=torch.Generator().manual_seed(0))
    kwargs = surgery.slots.policy_kwargs(
        base, {s.name: s.units for s in traced.network.spaces} | widths(fibers)
    )
    large.policy = surgery._built_at(base, kwargs)
    values = {n.removeprefix("policy."): x for n, x in surgery.tensors_of(lifted).items()}
    for key, x in surgery.tensors_of(large.policy).items():
        source = next((key.replace(t, o) for t, o in surgery.TARGETS.items() if key.startswith(t)), key)
        shared = source.replace("critic.features", "actor.features")
        x.data.copy_(values[source if source in values else shared])
    large.policy_kwargs = kwargs
    surgery._aliases(large)
    if getattr(large, "_last_lstm_states", None) is not None:
        large._setup_model()
        for key, x in surgery.tensors_of(large.policy).items():
            x.data.copy_(values[key])
    return base, large, fibers


def widths(fibers):
    return {name: len(labels) for name, labels in fibers.items()}


def answers(model, observations):
    view = surgery.view_of(model)
    with torch.no_grad():
        return list(surgery_tensors(view(*states.inputs(model, view, observations))))


def surgery_tensors(output):
    from pufferlib_kcore.graph.nested import tensors_in

    return tensors_in([x for x in (output[:2] if isinstance(output, tuple) else [output])])


@pytest.mark.parametrize("name", MODELS)
def test_planted_copies_merge_and_nothing_else_changes(name):
    base, large, fibers = planted(name)
    before = {n: x.clone() for n, x in large.policy.state_dict().items()}
    smaller, found = sb3.collapse(large, 1e-4, report=True)
    assert all(torch.equal(x, before[n]) for n, x in large.policy.state_dict().items())
    for space, labels in fibers.items():
        assert found.widths[space] == labels.max() + 1, space
        np.testing.assert_array_equal(found.fibers[space], labels, space)
    seen = states.drawn(base, 16)
    for ours, wide, theirs in zip(*(answers(m, seen) for m in (smaller, large, base)), strict=True):
        torch.testing.assert_close(ours, wide, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    ours, theirs = (m.predict(seen, deterministic=True)[0] for m in (smaller, large))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert type(smaller) is type(large) and smaller.num_timesteps == large.num_timesteps == 24
    smaller.learn(24, reset_num_timesteps=False)
    assert smaller.num_timesteps >= 48
    smaller.set_parameters(smaller.get_parameters())


@pytest.mark.parametrize("name", ["DQN", "SAC", "TD3", "SAC shared images"])
def test_targets_take_the_partition_of_their_networks(name):
    base, large, _ = planted(name)
    with torch.no_grad():  # a target that lags: each unit twice as loud, copies alike
        pairs = [(t, o) for t, o in surgery.TARGETS.items() if hasattr(large.policy, t[:-1])]
        for target, _ in pairs:
            for p in getattr(large.policy, target[:-1]).parameters():
                p.mul_(1.5)
    smaller = sb3.collapse(large, 1e-4)
    seen = states.drawn(base, 8)
    view = surgery.view_of(large)
    inputs = states.inputs(large, view, seen)
    for target, _ in pairs:
        small, wide = (getattr(m.policy, target[:-1]) for m in (smaller, large))
        given = inputs if target == "critic_target." else inputs[:1]
        for ours, theirs in zip(
            *(surgery_tensors((list([net(*given)]),)) for net in (small, wide)), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert smaller.policy is not large.policy
    aliases = [n for n in ("q_net_target", "critic_target", "actor_target") if hasattr(smaller, n)]
    assert aliases and all(getattr(smaller, n) is getattr(smaller.policy, n) for n in aliases)


@pytest.mark.parametrize("name", ["PPO", "DQN"])
def test_momentum_is_that_of_the_base(name):
    """One backward of the same loss on a lifted network and its base: the moments map onto each other."""
    base, large, _ = planted(name)
    seen = states.drawn(base, 8)
    for model in (base, large):
        policy = model.policy
        policy.optimizer = torch.optim.Adam(
            [p for group in policy.optimizer.param_groups for p in group["params"]]
            if model is base
            else (policy.q_net if name == "DQN" else policy).parameters(),
            lr=0.0,
        )
        view = surgery.view_of(model)
        policy.zero_grad()
        out = view(*states.inputs(model, view, seen))
        sum((x * x).sum() for x in surgery_tensors(out)).backward()
        policy.optimizer.step()
    smaller = sb3.collapse(large, 1e-4)
    theirs, ours = (m.policy.optimizer.state_dict()["state"] for m in (base, smaller))
    assert ours.keys() == theirs.keys() and ours
    for index, state in theirs.items():
        torch.testing.assert_close(ours[index]["exp_avg"], state["exp_avg"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["PPO", "A2C images", "A2C dict", "SAC", "RecurrentPPO"])
def test_a_saved_one_is_loaded_by_another_process(name, tmp_path):
    model = made(name).learn(16)
    smaller = sb3.collapse(model, 0.9)
    smaller.save(tmp_path / "small.zip")
    seen = states.drawn(model, 4)
    (tmp_path / "seen").write_bytes(pickle.dumps(seen))
    package = "sb3_contrib" if name.startswith("Recurrent") else "stable_baselines3"
    code = (
        f"import pickle, numpy as np; from {package} import {type(model).__name__} as M\n"
        f"m = M.load(r'{tmp_path}/small.zip', device='cpu')\n"
        f"x = pickle.load(open(r'{tmp_path}/seen', 'rb'))\n"
        f"np.save(r'{tmp_path}/out.npy', m.predict(x, deterministic=True)[0])"
    )
    path = ":".join(p for p in sys.path if p)
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": path, "OMP_NUM_THREADS": "1"})
    np.testing.assert_allclose(
        np.load(tmp_path / "out.npy"), smaller.predict(seen, deterministic=True)[0], atol=1e-5
    )


@pytest.mark.parametrize("name", ["PPO", "DQN", "TD3"])
def test_a_search_keeps_to_its_budget(name):
    model = made(name).learn(64)
    smaller, found = sb3.collapse(model, "auto", target_params=0.6, report=True)
    assert found.report.params_after <= 0.6 * found.report.params_before
    assert found.report.params_before < sum(p.numel() for p in model.policy.parameters()) or name == "PPO"
    smaller.learn(8, reset_num_timesteps=False)


def test_a_copy_shares_the_environment_and_nothing_that_learns():
    model = made("SAC").learn(24)
    alpha, rows = model.log_ent_coef.clone(), model.replay_buffer.observations.copy()
    smaller = sb3.collapse(model, 0.9)
    assert smaller.env is model.env and smaller.replay_buffer is not model.replay_buffer
    smaller.learn(24, reset_num_timesteps=False)
    assert torch.equal(model.log_ent_coef, alpha) and not torch.equal(smaller.log_ent_coef, alpha)
    np.testing.assert_array_equal(model.replay_buffer.observations, rows)
    own = sb3.collapse(model, 0.9, env=Toy(continuous=True))
    assert own.env is not model.env


@pytest.mark.parametrize("name", ["PPO", "DQN", "SAC", "RecurrentPPO"])
def test_a_model_collapses_while_it_learns(name):
    model, told = made(name), {}
    callback = sb3.KcoreCallback(diagnose_every=8, break_every=16, collapse_at=32, threshold=1.3)
    model.learn(8, callback=None)
    record = model.logger.record
    model.logger.record = lambda key, value, *rest, **how: (
        told.update({key: value}),
        record(key, value, *rest, **how),
    )
    model._custom_logger = True
    model.learn(64, callback=callback)
    assert callback.collapsed is not None
    assert callback.collapsed.report.params_after < callback.collapsed.report.params_before
    assert {"kcore/fibers", "kcore/dormant", "kcore/recycled", "kcore/params"} <= told.keys()


@pytest.mark.parametrize(
    "how, says",
    [
        (dict(threshold="aut"), "'auto'"),
        (dict(threshold=3), "0 to 2"),
        (dict(threshold={"nobody": 0.1}), "no such kind or space"),
        (dict(threshold=0.3, max_kl=0.1), "threshold='auto'"),
        (dict(threshold="auto", target_params=2), "target_params"),
        (dict(threshold="auto", observations=np.zeros((600, 5), np.float32)), "expected (N, 3)"),
        (dict(threshold="auto", observations=np.zeros((4, 3), np.float32)), "too few"),
    ],
)
def test_a_mistake_is_one_sentence_and_the_model_is_as_it_was(how, says):
    model = made("PPO")
    policy = model.policy
    with pytest.raises(UserError) as error:
        sb3.collapse_(model, **how)
    assert says in str(error.value) and "\n" not in str(error.value)
    assert model.policy is policy


def test_what_is_no_model_is_refused():
    with pytest.raises(UserError, match="no model of Stable-Baselines3"):
        sb3.collapse(torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match="collapse_at is 0"):
        sb3.KcoreCallback(collapse_at=0)


def test_both_critics_are_as_wide_as_the_one_that_needs_more():
    model = made("SAC").learn(24)
    for net, copies in ((model.critic.qf0, 1), (model.critic.qf1, 2)):
        with torch.no_grad():
            for unit in range(1, 1 + copies):
                net[0].weight[unit], net[0].bias[unit] = net[0].weight[0], net[0].bias[0]
    smaller, found = sb3.collapse(model, 1e-6, report=True)
    assert found.widths["policy.critic.qf0.0"] == found.widths["policy.critic.qf1.0"] == 5
    assert "1 fibers more" in found.reasons["policy.critic.qf1.0"]
    assert smaller.policy_kwargs["net_arch"] == {"pi": [6, 5], "qf": [5, 5]}
    seen = states.drawn(model, 16)
    for ours, theirs in zip(answers(smaller, seen), answers(model, seen), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_memory_is_cut_with_its_units():
    """An episode goes on: from states in which copies are alike, both models say the same."""
    _, large, fibers = planted("RecurrentPPO")
    rng, last = np.random.default_rng(0), large._last_lstm_states
    labels = [fibers[f"policy.lstm_{net}"] for net in ("actor", "actor", "critic", "critic")]
    some = [torch.as_tensor(rng.normal(size=(1, 1, 6)).astype(np.float32)) for _ in labels]
    h = [x[..., one] for x, one in zip(some, labels, strict=True)]
    large._last_lstm_states = type(last)(tuple(h[:2]), tuple(h[2:]))
    smaller = sb3.collapse(large, 1e-4)
    ours = smaller._last_lstm_states
    for cut, x in zip([*ours.pi, *ours.vf], some, strict=True):
        torch.testing.assert_close(cut, x)
    assert smaller.rollout_buffer.hidden_state_shape[-1] == smaller.policy.lstm_actor.hidden_size == 6
    assert large._last_lstm_states.pi[0].shape[-1] == 9
    seen = torch.as_tensor(states.drawn(large, 1))
    told = [
        [m.policy.predict_values(seen, m._last_lstm_states.vf, torch.zeros(1))]
        + [m.policy.get_distribution(seen, m._last_lstm_states.pi, torch.zeros(1))[0].distribution.logits]
        for m in (smaller, large)
    ]
    for one, other in zip(*told, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_chance_is_left_as_it_was():
    model = made("PPO").learn(8)
    states_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    sb3.collapse(model, "auto", max_kl=0.1)
    assert torch.equal(torch.get_rng_state(), states_before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states_before[1])
