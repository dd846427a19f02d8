"""Rival: PufferLib 2.0's own trainer on an Atari game, at the settings of ours, one JSON line an epoch.

Its trainer, clean_pufferl.py, is not part of PufferLib's package; the person who runs this names a copy:

    python benchmarks/rival.py --trainer path/to/clean_pufferl.py --env beam_rider --out rival.jsonl
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pufferlib_kcore.environments.quiet import ignore_pynvml, quiet

ignore_pynvml()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trainer", required=True, help="path of PufferLib 2.0's clean_pufferl.py")
    parser.add_argument("--env", default="beam_rider")
    parser.add_argument("--steps", type=int, default=614_400, help="agent steps to train")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--vec", default="multiprocessing", choices=("serial", "multiprocessing"))
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--threads", type=int, default=4, help="torch's threads")
    parser.add_argument("--out", required=True)
    parser.add_argument("override", nargs="*", help="train.batch_size=4096 ...")
    args = parser.parse_args()

    import torch

    torch.set_num_threads(args.threads)
    with quiet():
        import numpy as np
        import pufferlib.cleanrl
        import pufferlib.models
        import pufferlib.vector
        from pufferlib.environments import atari

    from pufferlib_kcore import settings

    t = settings.resolve(args.env, dict(o.split("=", 1) for o in args.override)).train
    spec = importlib.util.spec_from_file_location("clean_pufferl", args.trainer)
    assert spec is not None and spec.loader is not None
    trainer = importlib.util.module_from_spec(spec)
    sys.modules["clean_pufferl"] = trainer
    spec.loader.exec_module(trainer)
    trainer.print_dashboard = lambda *_, **__: None

    pool = {}
    if args.vec == "multiprocessing":
        pool = dict(num_workers=args.workers, batch_size=t.num_envs // args.workers, overwork=True)
    vec = pufferlib.vector.make(
        functools.partial(atari.environment.make, args.env),
        env_kwargs=dict(frameskip=4, repeat_action_probability=0.0),
        num_envs=t.num_envs,
        backend=getattr(pufferlib.vector, args.vec.capitalize()),
        **pool,
    )
    torch.manual_seed(args.seed)
    policy = pufferlib.models.Convolutional(vec.driver_env, framestack=1, flat_size=64 * 6 * 9)
    policy = pufferlib.models.LSTMWrapper(vec.driver_env, policy, 512, 512)
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
    data = trainer.create(config, vec, pufferlib.cleanrl.RecurrentPolicy(policy))
    start = time.perf_counter()
    with open(args.out, "a") as out:
        while data.global_step < args.steps:
            _, infos = trainer.evaluate(data)
            trainer.train(data)
            returns = infos.get("episode_return", [])
            record = {
                "seed": args.seed,
                "epoch": data.epoch,
                "agent_steps": int(data.global_step),
                "episodes": len(returns),
                "episode_return": float(np.mean(returns)) if returns else None,
                "wall": time.perf_counter() - start,
            }
            out.write(json.dumps(record) + "\n")
            out.flush()
    os._exit(0)  # its workers and its thread do not end by themselves


if __name__ == "__main__":
    main()
