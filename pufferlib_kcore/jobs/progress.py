"""Progress: how far long work is. A job tells it; whoever calls the job passes in how that is shown.

`shown`: as a bar where a person watches, else as a plain line now and then. `unwatched`: not at all.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

EVERY = 10.0  # seconds from one plain line to the next
Item = TypeVar("Item")


class Tell(Protocol):
    """What a job calls as its work goes on."""

    def __call__(self, part: float, note: str = "", line: str = "") -> None:
        """part: of it that is done, 0 to 1;  note: to be seen now;  line: to stay, where no note is seen"""


Watch = Callable[[str], AbstractContextManager[Tell]]  # is told what the work is; within, it goes on


@contextmanager
def unwatched(what: str) -> Iterator[Tell]:
    """Show nothing of the work that is done within."""
    yield lambda part, note="", line="": None


def counted(items: Iterable[Item], total: int, what: str, watch: Watch) -> Iterator[Item]:
    """The items, their coming shown as work; nothing is shown of none."""
    if not total:
        yield from items
        return
    with watch(what) as tell:
        for done, item in enumerate(items, 1):
            tell(done / total)
            yield item


class Work:
    """One piece of long work, called with the part of it that is done, and what there is to say of it."""

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic):
        self.what, self.clock, self.started = what, clock, clock()
        self.part, self.note = 0.0, ""
        self.tell: Callable[[str], None] = lambda line: None  # whoever shows it at once

    def __call__(self, part: float, note: str = "", line: str = "") -> None:
        self.part, self.note = part, note
        self.tell(line)

    def __str__(self) -> str:
        """`recording: 40%, 12 s, about 18 s left`; without a part only the time."""
        spent = self.clock() - self.started
        said = [f"{self.part:.0%}"] if self.part else []
        said += [self.note] if self.note else []
        said += [rough(spent)]
        said += [f"about {rough(spent / self.part - spent)} left"] if 0 < self.part < 1 else []
        return f"{self.what}: {', '.join(said)}"


def rough(seconds: float) -> str:
    """
    >>> rough(12.4), rough(754)
    ('12 s', '13 min')
    """
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


@contextmanager
def shown(what: str) -> Iterator[Work]:
    """Show the work that is done within: on stderr where that is a terminal, else as lines on stdout."""
    work = Work(what)
    with _bar(work) if sys.stderr.isatty() else _lines(work):
        yield work


@contextmanager
def _lines(work: Work) -> Iterator[None]:
    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(EVERY):
            print(work, flush=True)

    def put(line: str) -> None:
        if line:
            work.note = ""  # which the line says
            print(line, flush=True)

    work.tell = put
    print(f"{work.what} ...", flush=True)
    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


@contextmanager
def _bar(work: Work) -> Iterator[None]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    what, percent = TextColumn("{task.description}"), TextColumn("{task.percentage:>3.0f}%")
    note = TextColumn("{task.fields[note]}")
    above = sys.stdout.isatty()  # what is printed meanwhile goes above the bar
    console = Console(stderr=True)
    with Progress(
        what, BarColumn(), percent, TimeRemainingColumn(), note, console=console, redirect_stdout=above
    ) as bar:
        task = bar.add_task(work.what, total=1.0, note="")
        work.tell = lambda line: bar.update(task, completed=work.part, note=work.note)
        yield
