"""A batch whose runs nobody trained: folders in Metta's layout, and a launcher that only writes names."""

from pufferlib_kcore import settings
from pufferlib_kcore.jobs.batch.local import Outcome
from pufferlib_kcore.store import MettaFolder

STEPS = 256  # an epoch
SMALL = (
    "--base.rnn-name Recurrent --train.num-envs 4 --train.batch-size 256 --train.minibatch-size 128 "
    "--train.bptt-horizon 8 --train.update-epochs 1 --train.checkpoint-interval 2 "
    "--train.total-timesteps 1536"
).split()


def plant(root, name="t1", epochs=(2, 4, 6), words=SMALL):
    """A run of CartPole with a checkpoint and a state at these epochs, each an empty file.  -> it"""
    run = MettaFolder(root / name)
    _configure(run, settings.load(["--env", "cartpole", *words]).settings)
    for epoch in epochs:
        reach(run, epoch)
    return run


def begin(task, epoch):
    """Let a run of a grid, with the settings that it is trained with, have come to an epoch."""
    plain = MettaFolder(task.folder.root / task.exp).config()["settings"]
    args = settings.load(list(task.argv), lambda args: plain)
    _configure(task.folder, settings.from_plain(plain, args.overrides, args.config))
    reach(task.folder, epoch)


def _configure(run, made_with):
    run.path.mkdir(parents=True, exist_ok=True)
    run.write_config({"run": {"env": "cartpole"}, "settings": made_with.to_plain()})


def reach(run, epoch):
    """Let a run have come to an epoch."""
    for path in run.new_files(epoch, STEPS * epoch, 1.0):
        path.touch()


class Launcher:
    """Runs no command: each comes to the end that is planned for its name, else to its task's.

    plan  name -> Outcome, or an epoch that it stops at although it says that it is done
    """

    def __init__(self, tasks, plan=()):
        self.tasks = {task.name: task for task in tasks}
        self.plan = dict(plan)
        self.ran = []  # a list of names for each time that it was asked

    def __call__(self, commands, remember):
        self.ran.append([command.name for command in commands])
        for command in commands:
            planned = self.plan.get(command.name, Outcome(0, seconds=3.0, peak_bytes=10))
            task = self.tasks.get(command.name)
            outcome = planned if isinstance(planned, Outcome) else Outcome(0)
            if task is not None and not outcome.status:
                reach(task.folder, task.steps // STEPS if planned is outcome else planned)
            remember(command, outcome)
            yield command, outcome
