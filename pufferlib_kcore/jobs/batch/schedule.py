"""Schedule: what of a batch is left to do, collapses first, then trainings, and why a run failed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from pufferlib_kcore import program
from pufferlib_kcore.jobs.batch.local import Command, Outcome
from pufferlib_kcore.jobs.batch.task import Task
from pufferlib_kcore.jobs.batch.usage import forget, remember
from pufferlib_kcore.jobs.progress import Watch, counted, unwatched
from pufferlib_kcore.store import names

Remember = Callable[[Command, Outcome], None]
Launch = Callable[[Sequence[Command], Remember], Iterator[tuple[Command, Outcome]]]  # each as it ends

PROGRAM = [str(program.DEMO)] if program.DEMO.exists() else ["-m", "pufferlib_kcore"]


def work(
    tasks: Sequence[Task],
    launch: Launch,
    logs: Path,
    tell: Callable[[str], None],
    watch: Watch = unwatched,
) -> dict[str, str]:
    """Collapse what is to be collapsed, then train what is not done.  -> {run: why it failed}

    launch  runs commands, and gives each with its outcome as it ends
    logs    folder for what they print
    tell    gets a line on each as it ends
    """
    left = [task for task in tasks if not task.is_done()]
    tell(f"{len(tasks)} runs: {len(tasks) - len(left)} done before, {len(left)} to do")
    failed: dict[str, str] = {}
    first = collapses(left, logs)
    collapsing = launch(list(first), lambda done, outcome: None)
    for done, outcome in counted(collapsing, len(first), f"collapsing: {len(first)} to do", watch):
        tell(told(done, outcome))
        if outcome.status:
            failed |= {task.name: f"its collapse failed: {why(done, outcome)}" for task in first[done]}
    commands = trainings((task for task in left if task.name not in failed), logs)
    for done, task in commands.items():
        if not task.is_begun:
            forget(done)
    training = launch(list(commands), remember)
    for done, outcome in counted(training, len(commands), f"training: {len(commands)} runs to do", watch):
        tell(told(done, outcome))
        if outcome.status or not commands[done].is_done():
            failed[done.name] = why(done, outcome)
    return failed


def collapses(left: Iterable[Task], logs: Path) -> dict[Command, list[Task]]:
    """What is to be collapsed, each once, for the tasks that begin from it."""
    groups: dict[tuple[str, ...], list[Task]] = {}
    for task in left:
        if task.collapse and not task.is_begun:
            groups.setdefault(task.collapse, []).append(task)
    return {
        demo(("--mode", "collapse", *words), f"collapse_{_tag(group[0])}", logs): group
        for words, group in groups.items()
    }


def trainings(left: Iterable[Task], logs: Path) -> dict[Command, Task]:
    """What is to be trained, on from where it is."""
    return {demo(task.argv, task.name, logs): task for task in left}


def demo(argv: Sequence[str], name: str, logs: Path) -> Command:
    """The program with these arguments, which prints into <logs>/<name>.log."""
    return Command(name, (sys.executable, *PROGRAM, *argv), (logs / f"{name}.log").absolute())


def told(done: Command, outcome: Outcome) -> str:
    """A line on how a command ended."""
    how = "done" if not outcome.status else f"failed: {why(done, outcome)}"
    return f"{done.name}: {how} ({outcome.seconds:.0f} s)"


def why(done: Command, outcome: Outcome) -> str:
    """The last line that a command printed, or what stopped it."""
    if outcome.message:
        return outcome.message
    if outcome.status < 0:
        return f"ended by signal {-outcome.status}"
    lines = done.log.read_text(errors="replace").strip().splitlines() if done.log.is_file() else []
    return lines[-1][:300] if lines else f"exit status {outcome.status}"


def _tag(task: Task) -> str:
    return names.metta_run(names.MettaRun(task.exp, task.epoch, "base", task.setting))
