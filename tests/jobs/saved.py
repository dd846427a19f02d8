"""Runs on disk that nobody trained: policies with planted twins, an optimizer that took one step."""

from contextlib import contextmanager

import torch

from pufferlib_kcore import settings, store
from pufferlib_kcore.jobs import RunSource, world
from pufferlib_kcore.policies import build
from pufferlib_kcore.policies.restore import restore

WIDTH, TWINS = 16, 8  # hidden units; those of them that compute the same
EPOCHS = (2, 4)
SMALL = {
    "policy.hidden_size": WIDTH,
    "train.num_envs": 4,
    "train.batch_size": 64,
    "train.minibatch_size": 32,
    "train.bptt_horizon": 8,
}


def plant(run):
    """Checkpoints of CartPole at EPOCHS, their records, and what a run says of itself."""
    said = settings.resolve("cartpole", SMALL)
    spec = world.described(said)
    env = store.EnvFacts(name="cartpole", package=said.base.package, kwargs=dict(said.env))
    for epoch in EPOCHS:
        torch.manual_seed(epoch)
        policy, steps = build(spec), 64 * epoch
        with torch.no_grad():
            for parameter in policy.encoder.parameters():
                parameter[:TWINS] = parameter[:1]
        weights = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
        optimizer = torch.optim.Adam(policy.parameters())
        logits, value = policy(torch.randn(32, 4))
        (logits.square().mean() + value.square().mean()).backward()
        optimizer.step()
        model_path, state_path = run.new_files(epoch, steps, 1.0)
        store.ModelFile(policy=spec, state_dict=weights, epoch=epoch, agent_steps=steps, env=env).save(
            model_path
        )
        store.StateFile(optimizer=optimizer.state_dict(), epoch=epoch, agent_steps=steps).save(state_path)
        run.log({"epoch": epoch, "agent_steps": steps, "episode_return": float(epoch)})
    run.write_config({"settings": said.to_plain(), "policy": spec})
    return run


def source(run, **more):
    """The run as a job takes it up, its environments in this process."""
    return RunSource(run=run, vec="serial", **more)


def saved_policy(run, epoch):
    return restore(run.model_path(epoch)).policy


def of_collapse(**keys):
    """Settings of a collapse: threshold 0, nothing recorded, epoch 2, unless they say so."""
    plain = {"threshold": 0, "calibrate": 0, "epoch": 2, **keys}
    return settings.resolve("cartpole", {f"collapse.{key}": value for key, value in plain.items()}).collapse


def started_from(done):
    """A run that trains on from a collapse, as far as its files say."""
    if isinstance(done.source.run, store.MettaFolder):
        run = store.MettaFolder.create(done.source.run.path.parent, "cartpole", "on")
    else:
        run = store.Run.create(done.folder.path, "cartpole")
    run.write_config({"collapse": done.provenance})
    epoch, steps = done.epoch + 1, done.agent_steps + 64
    run.log({"epoch": epoch, "agent_steps": steps, "episode_return": float(epoch)})
    store.ModelFile.load(done.folder.model_path).save(run.new_files(epoch, steps, 1.0)[0])
    return run


def contents(folder):
    """The bytes of every file in it."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Told:
    """A watch that keeps what it is told: (what, part, note, line)"""

    def __init__(self):
        self.said = []

    @contextmanager
    def __call__(self, what):
        yield lambda part, note="", line="": self.said.append((what, part, note, line))
