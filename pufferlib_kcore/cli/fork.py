"""--mode fork: children of a run's checkpoints, and the lines between them."""

from __future__ import annotations

from pufferlib_kcore.cli.found import run_source
from pufferlib_kcore.cli.train import home, say, stop_signals
from pufferlib_kcore.jobs.children import ForkRequest, fork_run
from pufferlib_kcore.jobs.progress import shown
from pufferlib_kcore.settings import Args


def run(args: Args) -> int:
    """Print each fork's barrier.  -> 0, or 128 and the signal that has stopped it"""
    settings = args.settings
    steps = "train.total_timesteps" in args.overrides
    request = ForkRequest(
        source=run_source(args),
        home=home(args),
        points=settings.fork.points,
        data=settings.fork.data,
        line=settings.line,
        total_steps=settings.train.total_timesteps if steps else None,
    )
    with stop_signals() as stop:
        done = fork_run(request, stop, say, shown)
        if done is None:
            say("stopped; the same command goes on")
            return stop.status
    print(done)
    print(f"wrote {done.run.path / 'connectivity'}, with {len(done.figures)} figures in fork_analysis/")
    return 0
