"""Small forking experiments, for several tests: seconds, in this process."""

from pufferlib_kcore.connectivity.plan import Plan
from pufferlib_kcore.jobs import forking
from pufferlib_kcore.store.forks import ForkFolder

SMALL = {
    "total_steps": "240",
    "learning_starts": "60",
    "batch_size": "16",
    "eval_freq": "80",
    "eval_episodes": "2",
    "fork_points": "0.1,0.5",
    "fork_episodes": "3",
    "alphas": "3",
    "max_episode_steps": "40",
    "env": "InvertedDoublePendulum-v5",
    "seed": "5",
}


def plan(**more):
    return Plan.of({**SMALL, **{name: str(value) for name, value in more.items()}})


def folder(root, p):
    return ForkFolder.create(root, p.experiment_name, p.env, p.algo, p.seed)


def run_here(f, p, upto=None):
    """All tasks that are wanted, one after the other; upto: how many.  -> their names"""
    done = []
    while (tasks := list(forking.wanted(f, p))) and (upto is None or len(done) < upto):
        kind, fork, child = tasks[0]
        forking.TASKS[kind](f, p, fork, child)
        done.append(tasks[0])
    return done
