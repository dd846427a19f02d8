"""Rivals: other trainers, with the settings and the network of ours; one JSON line an epoch.

    python benchmarks/rivals.py pufferlib --trainer path/to/clean_pufferl.py --out rival.jsonl
    python benchmarks/rivals.py cleanrl --threads 4 --out rival.jsonl train.batch_size=4096 ...
    python benchmarks/rivals.py sb3 --vec multiprocessing --out rival.jsonl

pufferlib: PufferLib 2.0's own trainer. It is not part of PufferLib's package; who runs this names a copy.
Atari in PufferLib's own environments, all else in ours; the other trainers play Atari alone.
cleanrl: the synchronous loop of recurrent PPO as CleanRL publishes it, written anew from the description in
Huang et al., 2022, "The 37 implementation details of proximal policy optimization": environments one after
the other, minibatches of whole environments, the LSTM step by step with its state zeroed at episode starts.
sb3: RecurrentPPO of sb3-contrib, one LSTM for actor and critic, environments here or in a process each.
All see Atari's gray screens at half size (1, 105, 80), all compute in float32.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pufferlib_kcore.environments.quiet import quiet  # noqa: E402
from pufferlib_kcore.jobs.worker import ignore_pynvml  # noqa: E402

ignore_pynvml()

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from pufferlib_kcore import settings  # noqa: E402
from pufferlib_kcore.environments import atari  # noqa: E402
from pufferlib_kcore.environments.wrappers import EpisodeStats  # noqa: E402
from pufferlib_kcore.jobs import world as worlds  # noqa: E402
from pufferlib_kcore.policies import build  # noqa: E402
from pufferlib_kcore.settings import Settings  # noqa: E402

with quiet():
    import numpy as np
    import pufferlib.cleanrl
    import pufferlib.models
    import pufferlib.vector
    from pufferlib.environments import atari as pufferlib_atari

Log = Callable[..., None]


def network(env: Any, s: Settings) -> nn.Module:
    """The policy of ours, freshly initialized.  env: what has single_{observation,action}_space"""
    return build(worlds.spec_of(s, env.single_observation_space, env.single_action_space))


def game(name: str) -> EpisodeStats:
    """The environment of ours, without PufferLib's emulation."""
    return EpisodeStats(atari.make(name))


# PufferLib 2.0's trainer


def train_pufferlib(args: argparse.Namespace, s: Settings, log: Log) -> None:
    t = s.train
    spec = importlib.util.spec_from_file_location("clean_pufferl", args.trainer)
    assert spec is not None and spec.loader is not None
    trainer = importlib.util.module_from_spec(spec)
    sys.modules["clean_pufferl"] = trainer
    with quiet():
        spec.loader.exec_module(trainer)
    trainer.print_dashboard = lambda *_, **__: None

    pool = {}
    if args.vec == "multiprocessing":
        pool = dict(num_workers=args.workers, batch_size=t.num_envs // args.workers, overwork=True)
    creator, kwargs = worlds.creator(s), {}
    if s.base.package == "atari":
        creator = functools.partial(pufferlib_atari.environment.make, args.env)
        kwargs = dict(frameskip=4, repeat_action_probability=0.0)
    vec = pufferlib.vector.make(
        creator,
        env_kwargs=kwargs,
        num_envs=t.num_envs,
        backend=getattr(pufferlib.vector, args.vec.capitalize()),
        **pool,
    )
    torch.manual_seed(args.seed)
    keys = (
        "torch_deterministic cpu_offload total_timesteps learning_rate anneal_lr gamma gae_lambda "
        "update_epochs norm_adv clip_coef clip_vloss vf_coef vf_clip_coef max_grad_norm ent_coef target_kl "
        "num_envs batch_size minibatch_size bptt_horizon compile compile_mode"
    )
    config = pufferlib.namespace(
        **{key: getattr(t, key) for key in keys.split()},
        env=args.env,
        exp_id=f"rival-{args.seed}",
        seed=args.seed,
        device="cpu",
        data_dir=str(Path(args.out).parent),
        checkpoint_interval=10**9,
    )
    data = trainer.create(config, vec, pufferlib.cleanrl.RecurrentPolicy(network(vec.driver_env, s)))
    while data.global_step < args.steps:
        _, infos = trainer.evaluate(data)
        trainer.train(data)
        log(int(data.global_step), infos.get("episode_return", []))


# The synchronous loop

State = tuple[Tensor, Tensor]


def act(policy: Any, obs: Tensor, state: State, starts: Tensor) -> tuple[Tensor, Tensor, State]:
    """Steps in order, the state zeroed where an episode starts.

    obs: (T, B, *obs), state: 2 x (1, B, H), starts: (T, B) 0 or 1 -> logits (T * B, A), value (T * B,), state
    """
    hidden, lookup = policy.policy.encode_observations(obs.flatten(0, 1))
    outputs = []
    for h, start in zip(hidden.unflatten(0, obs.shape[:2]), starts, strict=True):
        keep = (1 - start)[None, :, None]
        out, state = policy.recurrent(h[None], (keep * state[0], keep * state[1]))
        outputs.append(out)
    logits, value = policy.policy.decode_actions(torch.cat(outputs).flatten(0, 1), lookup)
    return logits, value.flatten(), state


def train_cleanrl(args: argparse.Namespace, s: Settings, log: Log) -> None:
    from gymnasium.vector import AutoresetMode, SyncVectorEnv

    t = s.train
    N, T = t.num_envs, t.batch_size // t.num_envs
    together = t.minibatch_size // T  # environments in a minibatch
    if together * T != t.minibatch_size or N % together:
        sys.exit(f"a minibatch of {t.minibatch_size} steps is not of whole environments of {T} steps")
    creator = functools.partial(game, args.env)
    envs = SyncVectorEnv([creator] * N, autoreset_mode=AutoresetMode.SAME_STEP)
    torch.manual_seed(args.seed)
    policy = network(envs, s)
    optimizer = torch.optim.Adam(policy.parameters(), lr=t.learning_rate, eps=1e-5)

    obs = torch.zeros(T, N, *envs.single_observation_space.shape)
    actions = torch.zeros(T, N, dtype=torch.long)
    log_probs, rewards, starts, values, advantages = (torch.zeros(T, N) for _ in range(5))
    now, start = torch.as_tensor(envs.reset(seed=args.seed)[0]), torch.zeros(N)
    state = torch.zeros(1, N, 512), torch.zeros(1, N, 512)
    for steps in range(t.batch_size, args.steps + 1, t.batch_size):
        state_before, returns_seen = state, []
        with torch.no_grad():
            for i in range(T):
                obs[i], starts[i] = now, start
                logits, values[i], state = act(policy, obs[i : i + 1], state, starts[i : i + 1])
                drawn = torch.distributions.Categorical(logits=logits)
                actions[i] = drawn.sample()
                log_probs[i] = drawn.log_prob(actions[i])
                screens, reward, terminated, truncated, infos = envs.step(actions[i].numpy())
                rewards[i] = torch.as_tensor(reward)
                now, start = torch.as_tensor(screens), torch.as_tensor(terminated | truncated).float()
                if "final_info" in infos:
                    ended = infos["final_info"]
                    returns_seen += ended["episode_return"][ended["_episode_return"]].tolist()
            next_value, next_start = act(policy, now[None].float(), state, start[None])[1], start
            advantage = torch.zeros(N)
            for i in reversed(range(T)):
                delta = rewards[i] + t.gamma * next_value * (1 - next_start) - values[i]
                advantage = delta + t.gamma * t.gae_lambda * (1 - next_start) * advantage
                advantages[i], next_value, next_start = advantage, values[i], starts[i]
        returns = advantages + values
        for _ in range(t.update_epochs):
            for rows in torch.randperm(N).split(together):
                some = state_before[0][:, rows], state_before[1][:, rows]
                logits, value, _ = act(policy, obs[:, rows], some, starts[:, rows])
                drawn = torch.distributions.Categorical(logits=logits)
                ratio = (drawn.log_prob(actions[:, rows].flatten()) - log_probs[:, rows].flatten()).exp()
                gain, target = advantages[:, rows].flatten(), returns[:, rows].flatten()
                old = values[:, rows].flatten()
                if t.norm_adv:
                    gain = (gain - gain.mean()) / (gain.std() + 1e-8)
                clipped = ratio.clamp(1 - t.clip_coef, 1 + t.clip_coef)
                error = (value - target) ** 2
                if t.clip_vloss:
                    near = old + (value - old).clamp(-t.vf_clip_coef, t.vf_clip_coef)
                    error = torch.max(error, (near - target) ** 2)
                loss = torch.max(-gain * ratio, -gain * clipped).mean()
                loss = loss - t.ent_coef * drawn.entropy().mean() + t.vf_coef * 0.5 * error.mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(policy.parameters(), t.max_grad_norm)
                optimizer.step()
        log(steps, returns_seen)


# sb3-contrib


def train_sb3(args: argparse.Namespace, s: Settings, log: Log) -> None:
    from sb3_contrib import RecurrentPPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

    class Encoder(BaseFeaturesExtractor):
        """The convolutions and the linear layer of ours; sb3 scales screens to 1 itself."""

        def __init__(self, space: Any):
            super().__init__(space, 512)
            sizes = argparse.Namespace(single_action_space=argparse.Namespace(n=1))
            self.network = pufferlib.models.Convolutional(sizes, framestack=1, flat_size=64 * 6 * 9).network

        def forward(self, screens: Tensor) -> Tensor:
            return self.network(screens)

    class Epochs(BaseCallback):
        """Logs whenever a rollout is about to start: the update before it has ended."""

        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            if self.num_timesteps:
                log(self.num_timesteps, [])

    t = s.train
    # forked: else each of its processes imports torch first, for minutes
    backends = {
        "serial": DummyVecEnv,
        "multiprocessing": functools.partial(SubprocVecEnv, start_method="fork"),
    }
    model = RecurrentPPO(
        "CnnLstmPolicy",
        backends[args.vec]([functools.partial(game, args.env)] * t.num_envs),
        learning_rate=t.learning_rate,
        n_steps=t.batch_size // t.num_envs,
        batch_size=t.minibatch_size,
        n_epochs=t.update_epochs,
        gamma=t.gamma,
        gae_lambda=t.gae_lambda,
        clip_range=t.clip_coef,
        clip_range_vf=t.vf_clip_coef if t.clip_vloss else None,
        normalize_advantage=t.norm_adv,
        ent_coef=t.ent_coef,
        vf_coef=0.5 * t.vf_coef,
        max_grad_norm=t.max_grad_norm,
        seed=args.seed,
        device="cpu",
        policy_kwargs=dict(
            features_extractor_class=Encoder,
            net_arch=[],
            lstm_hidden_size=512,
            shared_lstm=True,
            enable_critic_lstm=False,
            ortho_init=False,
        ),
    )
    model.learn(args.steps, callback=Epochs())
    log(model.num_timesteps, [])


RIVALS = {"pufferlib": train_pufferlib, "cleanrl": train_cleanrl, "sb3": train_sb3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rival", choices=list(RIVALS))
    parser.add_argument("--trainer", help="path of PufferLib 2.0's clean_pufferl.py")
    parser.add_argument("--env", default="beam_rider")
    parser.add_argument("--steps", type=int, default=614_400, help="agent steps to train")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--vec", default="multiprocessing", choices=("serial", "multiprocessing"))
    parser.add_argument("--workers", type=int, default=4, help="PufferLib's env workers")
    parser.add_argument("--threads", type=int, default=4, help="torch's threads")
    parser.add_argument("--out", required=True)
    parser.add_argument("override", nargs="*", help="train.batch_size=4096 ...")
    args = parser.parse_intermixed_args()
    if args.rival == "pufferlib" and not args.trainer:
        parser.error("pufferlib needs --trainer, the path of PufferLib 2.0's clean_pufferl.py")
    s = settings.resolve(args.env, dict(o.split("=", 1) for o in args.override))
    if args.rival != "pufferlib" and s.base.package != "atari":
        parser.error(f"{args.rival} plays Atari alone, not {args.env}: choose pufferlib")
    torch.set_num_threads(args.threads)
    start, epochs = time.perf_counter(), 0
    with open(args.out, "a") as out:

        def log(agent_steps: int, returns: list[float]) -> None:
            nonlocal epochs
            epochs += 1
            record = {
                "seed": args.seed,
                "epoch": epochs,
                "agent_steps": agent_steps,
                "episodes": len(returns),
                "episode_return": float(np.mean(returns)) if returns else None,
                "wall": time.perf_counter() - start,
            }
            out.write(json.dumps(record) + "\n")
            out.flush()

        RIVALS[args.rival](args, s, log)
    os._exit(0)  # PufferLib's workers and its thread do not end by themselves


if __name__ == "__main__":
    main()
