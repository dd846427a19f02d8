"""Memory: the peak of a training process, beside what its rollout buffer and its network need.

    python benchmarks/speed.py memory

Peak: the largest resident size of the main process (VmHWM, which unlike ru_maxrss forgets the process that
started it), without its env workers, which are stated beside. Needed: an interpreter that has imported torch
and the environments, and made a step of an optimizer (torch imports its compiler for that); the rollout's
columns; parameters, gradients and Adam's two moments; and the most that torch allocates beyond these in one
minibatch, forward and backward, in a bare loop.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from rounds import SETTINGS, Failed, Measured, machine, run

from pufferlib_kcore.text import markdown

MIB = 2**20
AIM = 1.3  # times what is needed


def status(key: str, process: int | str = "self", file: str = "status") -> int:
    """Bytes that the kernel counts for a process.  key: VmHWM (the most so far), VmRSS (now), ..."""
    lines = Path(f"/proc/{process}/{file}").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


# In processes of their own


def imported(words: list[str]) -> dict[str, Any]:
    """An interpreter with torch and the environments, before and after a step of an optimizer."""
    import ale_py  # noqa: F401
    import pufferlib.models
    import pufferlib.vector  # noqa: F401
    import torch

    before = status("VmHWM")
    torch.optim.Adam([torch.zeros(1)]).step()  # the first one imports torch's compiler
    return {"peak": status("VmHWM"), "before_optimizer": before}


def bare(words: list[str]) -> dict[str, Any]:
    """A bare loop: the network, Adam and as many observations as a rollout has; and one minibatch, counted.

    -> peak (of this process), params, obs (bytes of one observation), activations (see `most_allocated`)
    """
    import pufferlib.vector  # noqa: F401
    import torch

    from pufferlib_kcore import environments, settings
    from pufferlib_kcore.jobs import world as worlds
    from pufferlib_kcore.policies import build
    from pufferlib_kcore.training import precision

    s = settings.load(["--env", "beam_rider", *words]).settings
    env = environments.make_creator("beam_rider")()
    shape = env.single_observation_space.shape
    policy = build(worlds.spec_of(s, env.single_observation_space, env.single_action_space))
    t, cpu = s.train, torch.device("cpu")
    autocast = precision.autocast(precision.resolve(t.precision, policy, cpu), cpu)
    optimizer = torch.optim.Adam(policy.parameters(), eps=1e-5, fused=True)
    buffer = torch.randint(
        0, 255, (t.batch_size // t.bptt_horizon, t.bptt_horizon, *shape), dtype=torch.uint8
    )
    segments = t.minibatch_size // t.bptt_horizon
    state = torch.zeros(1, segments, 512), torch.zeros(1, segments, 512)

    def minibatch() -> None:
        obs = buffer[torch.randperm(len(buffer))[:segments]]
        with autocast():
            logits, value, _ = policy(obs, state)
        loss = logits.float().log_softmax(-1)[:, 0].mean() + value.float().square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    for _ in range(3):
        minibatch()
    peak = status("VmHWM")
    activations = most_allocated(minibatch)
    params = sum(p.numel() for p in policy.parameters())
    return {"peak": peak, "params": params, "obs": buffer[0, 0].nbytes, "activations": activations}


def most_allocated(work: Any) -> int:
    """The most bytes that torch holds at once while it works, beyond those that it held before."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def training(words: list[str], keep: bool) -> dict[str, Any]:
    """Train as the command line does.  keep: freed memory, as the trainer does

    -> peak, after (what the process held, and its peak, as parts of the first epochs ended), workers
    """
    import psutil

    from pufferlib_kcore import settings
    from pufferlib_kcore.jobs.commands import Home
    from pufferlib_kcore.jobs.training import TrainRequest, train
    from pufferlib_kcore.training import memory
    from pufferlib_kcore.training.loop import Loop

    after: dict[str, dict[str, int]] = {}
    workers: list[int] = []

    def marked(name: str) -> None:
        method = getattr(Loop, name)

        def call(self: Loop, *args: Any) -> Any:
            result = method(self, *args)
            label = f"{name} {self.epoch + (name != 'save')}"
            after[label] = {"held": status("VmRSS"), "peak": status("VmHWM")}
            workers[:] = [status("Private_Dirty", p.pid, "smaps_rollup") for p in psutil.Process().children()]
            return result

        setattr(Loop, name, call)

    for name in ("collect", "update", "save"):
        marked(name)
    if not keep:
        memory.keep_freed = lambda: None
    after["imports"] = {"held": status("VmRSS"), "peak": status("VmHWM")}
    args = settings.load(["--env", "beam_rider", *words])
    root = args.settings.train.data_dir
    train(TrainRequest(settings=args.settings, home=Home(data_dir=root, vec=args.vec), root=root))
    return {"peak": status("VmHWM"), "after": after, "workers": workers}


# In the benchmark's process


def measure(args: argparse.Namespace, measured: Measured) -> dict[str, Any]:
    """-> the section of speed.json, in bytes"""
    train = {**SETTINGS, **args.set, "train.update_epochs": args.update_epochs[0]}
    words = [f"--{name}={value}" for name, value in train.items()]
    long = [f"--train.total-timesteps={(1 + args.epochs) * train['train.batch_size']}"]
    found: dict[str, Any] = {}
    for what in ("imported", "bare", "training", "training, freed memory given back"):
        key = dict(table="memory", what=what, train=train, epochs=args.epochs)
        row = measured.find(**key)
        if row is None:
            out, folder = args.work / "memory.json", args.work / "memory"
            options = ["--give-back"] if what.endswith("back") else []
            if what.startswith("training"):
                options += [*long, f"--train.data-dir={folder}"]
            try:
                run([__file__, what.split(",")[0], "--out", out, *options, *words], args.work / "memory.log")
            except Failed as error:
                sys.exit(f"{what}: {error}")
            row = measured.add(**key, **json.loads(out.read_text()))
        found[what] = {name: value for name, value in row.items() if name not in key}
        print(f"{what:36} peak {row['peak'] / MIB:8,.0f} MiB", flush=True)
    bytes_of = needed(found, train)
    section = {**measured.about, "settings": train, "needed": bytes_of, "found": found}
    section["ratio"] = found["training"]["peak"] / sum(bytes_of.values())
    return section


def needed(found: dict[str, Any], train: dict[str, Any]) -> dict[str, int]:
    """Bytes, part by part."""
    steps, loop = train["train.batch_size"], found["bare"]
    # action; log-probability, reward, value, advantage, return; terminal, truncation, start; LSTM's state
    columns = 8 + 5 * 4 + 3 + 2 * 4 * 512 // train["train.bptt_horizon"]
    return {
        "interpreter, torch, its optimizer and environments": found["imported"]["peak"],
        "rollout: observations": steps * loop["obs"],
        "rollout: other columns": steps * columns,
        "parameters, gradients, two moments": 4 * 4 * loop["params"],
        "one minibatch, forward and backward": loop["activations"],
    }


def tables(section: dict[str, Any]) -> list[str]:
    t, found = section["settings"], section["found"]
    whole = sum(section["needed"].values())

    def mib(size: float) -> str:
        return f"{size / MIB:,.0f}"

    lines = ["## Memory of a training", "", machine(section), ""]
    lines += [
        f"BeamRider, {t['train.num_envs']} envs, batch {t['train.batch_size']:,}, minibatch "
        f"{t['train.minibatch_size']:,}, {t['train.update_epochs']} update epochs, multiprocessing.",
        "",
    ]
    rows = [[what, mib(size), ""] for what, size in section["needed"].items()]
    rows.append(["**needed**", mib(whole), "1.00"])
    for what in ("training", "training, freed memory given back", "bare"):
        title = "the bare loop, as a process" if what == "bare" else f"{what}: peak"
        rows.append([title, mib(found[what]["peak"]), f"{found[what]['peak'] / whole:.2f}"])
    lines += [*markdown(["", "MiB", "over what is needed"], rows), ""]
    workers = found["training"]["workers"]
    compiler = found["imported"]["peak"] - found["imported"]["before_optimizer"]
    strict = found["training"]["peak"] / (whole - compiler)
    lines += [
        f"Torch's optimizers import its compiler, {mib(compiler)} MiB of what is needed; not counting that, "
        f"the training's peak is {strict:.2f} times the rest.",
        f"The aim is {AIM} at most. Beside it, {len(workers)} env workers hold "
        f"{mib(sum(workers) / max(1, len(workers)))} MiB each that they do not share with it.",
        "",
    ]
    kept, back = (found[what]["after"] for what in ("training", "training, freed memory given back"))
    rows = [
        [part, *(mib(values[part][what]) for values in (kept, back) for what in ("held", "peak"))]
        for part in kept
        if part in back
    ]
    header = ["after", "held, MiB", "peak so far", "held, given back", "peak, given back"]
    return [*lines, *markdown(header, rows), ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["imported", "bare", "training"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--give-back", action="store_true", help="leave malloc as it is")
    args, words = parser.parse_known_args()
    if args.what == "training":
        row = training(words, not args.give_back)
    else:
        row = {"imported": imported, "bare": bare}[args.what](words)
    args.out.write_text(json.dumps(row))


if __name__ == "__main__":
    main()
