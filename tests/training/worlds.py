"""Small worlds with known answers: a scripted vectorized environment, and tiny policies."""

import contextlib
from collections import namedtuple
from types import SimpleNamespace

import gymnasium
import numpy as np
import pufferlib.models
import torch

from pufferlib_kcore.store import Facts, ModelFile, Run, StateFile
from pufferlib_kcore.training.algorithm import Tools
from pufferlib_kcore.training.clock import Clock
from pufferlib_kcore.training.loop import Loop, Start
from pufferlib_kcore.training.parallel import ALONE
from pufferlib_kcore.training.ppo import PPO
from pufferlib_kcore.training.ppo.learner import Learner
from pufferlib_kcore.training.rollout import Collector

Step = namedtuple("Step", "obs rewards terminals truncations infos env_ids")


class Countdown:
    """N environments with PufferLib's semantics. Observation: [env, episode, its step, last action].

    Environment n's episodes last `lengths[n]` steps, and are truncated where `truncates[n]`, else terminal;
    each step earns 1. The step after an end ignores its action and resets.
    """

    def __init__(self, lengths, truncates=None, groups=1, bad_at=None):
        self.lengths = np.array(lengths)
        N = self.num_envs = len(lengths)
        self.truncates = np.array(truncates if truncates is not None else [False] * N)
        self.groups = np.split(np.arange(N), groups)
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.single_action_space = gymnasium.spaces.Discrete(3)
        self.bad_at, self.sent = bad_at, 0

    def reset(self, seed, first=0):
        self.began = seed, first
        self.state = np.zeros((self.num_envs, 4), np.float32)
        self.state[:, 0] = np.arange(self.num_envs)
        self.rewards = np.zeros(self.num_envs, np.float32)
        self.terminals = np.zeros(self.num_envs, bool)
        self.truncations = np.zeros(self.num_envs, bool)
        self.infos = [[] for _ in self.groups]
        self.waiting = [False] * len(self.groups)

    def recv(self, g):
        assert not self.waiting[g], "received twice without a send"
        self.waiting[g] = True
        ids = self.groups[g]
        infos, self.infos[g] = self.infos[g], []
        return Step(
            self.state[ids],
            self.rewards[ids],
            self.terminals[ids],
            self.truncations[ids],
            infos,
            ids,
        )

    def send(self, g, actions):
        assert self.waiting[g], "sent without a receive"
        self.waiting[g] = False
        self.sent += 1
        for n, action in zip(self.groups[g], actions, strict=True):
            if self.terminals[n] or self.truncations[n]:  # the dummy step
                self.state[n, 1:] = self.state[n, 1] + 1, 0, 0
                self.rewards[n] = 0
                self.terminals[n] = self.truncations[n] = False
                continue
            self.state[n, 2] += 1
            self.state[n, 3] = action
            self.rewards[n] = 1
            if self.state[n, 2] == self.lengths[n]:
                self.truncations[n], self.terminals[n] = self.truncates[n], not self.truncates[n]
                length = int(self.lengths[n])
                self.infos[g].append({"episode_return": float(length), "episode_length": length})
        if self.bad_at is not None and self.sent >= self.bad_at:
            self.state[:] = np.nan

    def close(self):
        pass


class Laps(Countdown):
    """Four environments whose episodes take 15 steps, and with the dummy step one epoch of 64 steps.

    So each epoch begins as a fresh reset does, and a run that goes on can be held to one that never stopped.
    """

    def __init__(self, groups=2):
        super().__init__([15] * 4, groups=groups)

    def send(self, g, actions):
        super().send(g, actions)
        self.state[:, 1] = 0  # which episode it is


def loop(folder, vec, policy, companions=None, start=None, together=ALONE, algorithm=PPO, **changes):
    """A training in folder/run, new or going on; its reporters fill the list `seen`."""
    path = folder / "run"
    run = Run(path) if path.exists() else Run.create(folder, "countdown", "run")
    train, tools = train_settings(**changes), Tools(1, together)
    made = Loop(
        algorithm(policy, vec, train, tools),
        vec,
        run,
        train,
        tools,
        Facts(policy={"name": "Default"}),
        start or Start(),
        companions or {},
    )
    made.seen = []
    made.reporters = [made.seen.append]
    return made


def resumed(folder, vec, policy, epoch, companions=None, **changes):
    """The training in folder/run going on from an epoch; the policy's weights are read from there."""
    run = Run(folder / "run")
    policy.load_state_dict(ModelFile.load(run.model_path(epoch)).state_dict)
    run.truncate_metrics(epoch)
    return loop(folder, vec, policy, companions, Start.at(StateFile.load(run.state_path(epoch))), **changes)


def weights(policy):
    return torch.cat([p.detach().flatten() for p in policy.parameters()])


def tiny_policy(vec, recurrent=True, hidden=8, layers=1, seed=0):
    """PufferLib's Default, and LSTMWrapper around it."""
    torch.manual_seed(seed)
    env = SimpleNamespace(
        single_observation_space=vec.single_observation_space,
        single_action_space=vec.single_action_space,
        observation_space=vec.single_observation_space,
    )
    policy = pufferlib.models.Default(env, hidden_size=hidden)
    if recurrent:
        policy = pufferlib.models.LSTMWrapper(env, policy, hidden, hidden, num_layers=layers)
    for p in policy.parameters():  # no symmetric start: every weight counts
        torch.nn.init.normal_(p, std=0.4)
    return policy


def train_settings(**changes):
    """The [train] settings that the trainer reads, small."""
    settings = dict(
        batch_size=64,
        minibatch_size=32,
        bptt_horizon=4,
        update_epochs=2,
        total_timesteps=64 * 4,
        checkpoint_interval=2,
        learning_rate=1e-3,
        anneal_lr=True,
        gamma=0.9,
        gae_lambda=0.8,
        clip_coef=0.2,
        clip_vloss=True,
        vf_coef=0.5,
        vf_clip_coef=0.2,
        max_grad_norm=0.5,
        ent_coef=0.01,
        norm_adv=True,
        target_kl=None,
        precision="float32",
        keep_state="auto",
        compile=False,
        cpu_offload=False,
        compile_mode="default",
    )
    return SimpleNamespace(**{**settings, **changes})


def rollout(vec, policy, steps=8, bptt=4):
    """Experience of a policy, from a fresh start."""
    vec.reset(0)
    generator = torch.Generator().manual_seed(0)
    return Collector(vec, policy, steps, bptt, generator, Clock(), contextlib.nullcontext).collect()[0]


def learner(policy, lr=1e-3, optimizer=torch.optim.Adam, together=ALONE, **changes):
    """A Learner of 16-step minibatches, with small settings."""
    tools = Tools(together.rank, together)
    tools.generator.manual_seed(together.rank)
    train = train_settings(**{"minibatch_size": 16, "clip_coef": 0.1, "vf_clip_coef": 0.1, **changes})
    return Learner(policy, optimizer(policy.parameters(), lr=lr), train, tools, contextlib.nullcontext)
