"""Reporting: an epoch's record as one plain line, as a live dashboard, or to a tracker."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.training.metrics import KEYS, LINE, Record, Reporter, known


def plain_line(record: Record) -> str:
    """`epoch=3 agent_steps=92160 SPS=1043 episode_return=312.5 ...`, in a fixed order, nan where unknown."""
    return " ".join(f"{key}={_number(record.get(name, math.nan))}" for name, key in LINE.items())


def _number(value) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


class PlainLog:
    """One line an epoch to stdout where it is redirected, and always to log.out in the run's folder."""

    def __init__(self, path: Path, header: str, echo: bool):
        self.path, self.echo = path, echo
        self._write(header)

    def __call__(self, record: Record) -> None:
        self._write(plain_line(record))

    def _write(self, line: str) -> None:
        with open(self.path, "a") as file:
            file.write(line + "\n")
        if self.echo:
            print(line, flush=True)


class Dashboard:
    """A live table on a terminal: what runs, the last record, what is left, and what the machine bears.

    header: the plain log's first line, `run=.. env=.. policy=..`; console: rich's, by default of stdout.
    """

    def __init__(self, header: str, total_timesteps: int, clock, console=None):
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        self.facts = dict(re.findall(r"(\w+)=(.*?)(?=\s+\w+=|\s*$)", header))
        self.total, self.clock = total_timesteps, clock
        self.known: dict[str, Any] = {}  # the last value of each metric
        self.console = Console() if console is None else console
        # A screen of its own is drawn anew each time: a terminal that changes its size keeps no fragments
        first = f"{self.facts.get('run', '')}\nthe first epoch ..."
        self.live = Live(Text(first), console=self.console, screen=True, refresh_per_second=4)
        self.live.start()
        self.shown: Any = None
        machine()  # the cores' load is measured from here on

    def __call__(self, record: Record) -> None:
        self.known |= known(record)
        self.shown = self._table({**record, **self.known})
        self.live.update(self.shown)

    def close(self) -> None:
        """Leave the terminal as it was, the last table below what stood there."""
        self.live.stop()
        if self.shown is not None:
            self.console.print(self.shown)

    def _table(self, record: Record):
        from rich.columns import Columns
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        seconds = self.clock.seconds
        spent = sum(seconds.values()) or 1.0
        groups: dict[str, dict[str, Any]] = {
            "Run": {
                "environment": self.facts.get("env", ""),
                "policy": self.facts.get("policy", ""),
                "parameters": f"{int(self.facts.get('params', 0)):,}",
                "uptime": duration(record["overview/uptime"]),
                "remaining": duration(self._left(record)),
                **machine(),
            },
            "Progress": {
                "epoch": record["overview/epoch"],
                "agent steps": f"{record['overview/agent_steps']:,}",
                "steps/s": f"{record['overview/SPS']:,.0f}",
                "return": _ended(record["environment/episode_return"], 2),
                "length": _ended(record["environment/episode_length"], 1),
                "episodes ended": record["environment/episodes"],
            },
            "Losses": {},
            "Time": {name: f"{100 * s / spent:.0f}%" for name, s in seconds.items()},
        }
        for name, value in record.items():
            section, _, rest = name.partition("/")
            if section == "losses" or name not in KEYS:
                groups.setdefault(section.capitalize(), {})[rest] = _shown(value)
        tables = []
        for name, rows in groups.items():
            look: Any = {"title_justify": "left", "title_style": "bold cyan", "min_width": len(name) + 1}
            table = Table(title=name, box=None, show_header=False, **look)
            for key, value in rows.items():
                table.add_row(key, str(value))
            tables.append(Panel(table, border_style="cyan"))
        outer = Table.grid(expand=True)
        outer.add_row(Text(self.facts.get("run", ""), style="bold", overflow="fold"))
        done = min(self.total, record["overview/agent_steps"])
        outer.add_row(ProgressBar(total=self.total, completed=done))
        outer.add_row(Columns(tables))
        return outer

    def _left(self, record: Record) -> float:
        """Seconds until the end, at the last epoch's speed."""
        return (self.total - record["overview/agent_steps"]) / max(record["overview/SPS"], 1e-9)


def machine() -> dict[str, str]:
    """How busy this machine's cores were since the last call, and what of its memory is in use."""
    import psutil
    import torch

    bears = {"CPU": f"{psutil.cpu_percent():.0f}% of {psutil.cpu_count()} cores"}
    memory = psutil.virtual_memory()
    bears["memory"] = f"{(memory.total - memory.available) / 2**30:.1f} of {memory.total / 2**30:.1f} GiB"
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        bears["GPU memory"] = f"{(total - free) / 2**30:.1f} of {total / 2**30:.1f} GiB"
    return bears


def _ended(value: float, digits: int) -> str:
    return "none ended yet" if math.isnan(value) else f"{value:.{digits}f}"


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def duration(seconds: float) -> str:
    """3661 -> '1h 01m 01s'"""
    hours, rest = divmod(int(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}h {minutes:02d}m {rest:02d}s" if hours else f"{minutes}m {rest:02d}s"


def reporter(
    path: Path, header: str, total_timesteps: int, clock
) -> tuple[list[Reporter], Callable[[], None]]:
    """What a run reports to: log.out always, and the terminal or a redirected stdout.  -> reporters, close"""
    on_terminal = sys.stdout.isatty()
    reporters: list[Reporter] = [PlainLog(path, header, echo=not on_terminal)]
    if not on_terminal:
        return reporters, lambda: None
    dashboard = Dashboard(header, total_timesteps, clock)
    return [*reporters, dashboard], dashboard.close


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Where a run is to be followed, beside its own files."""

    kind: Literal["wandb", "tensorboard"] | None = None
    project: str = "pufferlib_kcore"
    group: str | None = None
    entity: str | None = None


def tracker(
    tracking: Tracking, name: str, folder: Path, config: dict[str, Any]
) -> tuple[Reporter, Callable[[], Any]] | None:
    """W&B (offline unless a key is set) or TensorBoard under the run's name.  -> reporter, close; or None"""
    if tracking.kind is None:
        return None
    return (_wandb if tracking.kind == "wandb" else _tensorboard)(tracking, name, folder, config)


def tracked(record: Record) -> dict[str, float]:
    """What trackers show: all that is known, the overview as PufferLib's section that sorts before others."""
    return {
        name.replace("overview/", "0verview/") if name in KEYS else name: value
        for name, value in known(record).items()
        if name != "overview/wall_time"
    }


def _tensorboard(tracking: Tracking, name: str, folder: Path, config: dict[str, Any]):
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"))
    writer.add_text("config", f"{name}: {config}")

    def report(record: Record) -> None:
        for key, value in tracked(record).items():
            writer.add_scalar(key, value, record["overview/agent_steps"])
        writer.flush()

    return report, writer.close


def _wandb(tracking: Tracking, name: str, folder: Path, config: dict[str, Any]):
    import os

    try:
        import wandb
    except ImportError:
        raise UserError(
            "--track wandb needs the package wandb: pip install wandb, or --track tensorboard"
        ) from None
    online = bool(os.environ.get("WANDB_API_KEY")) or os.environ.get("WANDB_MODE") == "online"
    run = wandb.init(
        project=tracking.project,
        group=tracking.group,
        entity=tracking.entity,
        name=name,
        id=name,
        resume="allow",
        dir=str(folder),
        config=config,
        mode="online" if online else "offline",
        settings=wandb.Settings(silent=True),
    )
    return (lambda record: run.log(tracked(record))), run.finish
