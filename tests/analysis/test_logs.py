"""Laws of logs: what a training wrote is read back, in each of the three forms, whatever lies between."""

import io
import json
import math
import random

import pytest
from rich.box import Box
from rich.console import Console
from rich.table import Table

from pufferlib_kcore.analysis import logs
from pufferlib_kcore.errors import UserError

JUNK = [
    "A.L.E: Arcade Learning Environment (version 0.12.1)",
    "[Powered by Stella]",
    "",
    "epoch",
    "epoch=",
    "epoch=soon agent_steps=never",
    "an epoch=3 in a sentence agent_steps=3",
    "{not json",
    '{"epoch": "3", "agent_steps": 5}',
    "[1, 2]",
    "│ stray",
    "╰─╯",
    "\x00\x01\x02",
]


def some_records(rng, count=40, batch=30720):
    """Records of a run, of which some epochs finished no episode."""
    for epoch in range(1, count + 1):
        finished = rng.random() < 0.6
        yield {
            "epoch": epoch,
            "agent_steps": epoch * batch,
            "SPS": round(rng.uniform(500, 3000)),
            "episode_return": round(rng.uniform(-100, 2000), 3) if finished else None,
            "episodes": rng.randint(1, 9) if finished else 0,
            "value_loss": round(rng.uniform(0, 1), 3),
            "uptime": round(epoch * 11.7, 1),
        }


def plain(record):
    return " ".join(f"{key}={'nan' if value is None else value}" for key, value in record.items())


def with_junk(rng, lines):
    """The lines with junk in between."""
    for line in lines:
        yield from rng.sample(JUNK, rng.randint(0, 3))
        yield line


# --- our own forms ------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [plain, json.dumps])
def test_our_lines_come_back_from_between_junk(tmp_path, write):
    rng = random.Random(0)
    records = list(some_records(rng))
    path = tmp_path / "log.out"
    path.write_text("\n".join(with_junk(rng, map(write, records))) + "\n")
    assert logs.parse(path) == records


def test_the_header_says_where_a_run_came_from(tmp_path):
    path = tmp_path / "log_collapsed.out"
    header = "run=experiments/my run/x env=beam_rider params=402133 threshold=0.3 collapse_epoch=51"
    path.write_text(f"{header} tag=lin03_cnn05\nepoch=52 agent_steps=100\n")
    log = logs.read(path)
    assert log.header == {
        **{"run": "experiments/my run/x", "env": "beam_rider", "params": 402133},
        **{"threshold": 0.3, "collapse_epoch": 51, "tag": "lin03_cnn05"},
    }
    assert log.records == [{"epoch": 52, "agent_steps": 100}]


def test_infinities_and_nan_are_nothing_measured(tmp_path):
    path = tmp_path / "log.out"
    path.write_text("epoch=1 agent_steps=5 a=nan b=inf c=-inf d=1e-3 e=text f=-7\n")
    measured = {"a": None, "b": None, "c": None, "d": 1e-3, "e": "text", "f": -7}
    assert logs.parse(path) == [{"epoch": 1, "agent_steps": 5, **measured}]


def test_a_cut_last_line_is_not_believed(tmp_path):
    path = tmp_path / "log.out"
    whole = "epoch=1 agent_steps=92160 SPS=100\nepoch=2 agent_steps=184320 SPS=100\n"
    for length in range(len(whole) // 2 + 1, len(whole)):
        path.write_text(whole[:length])
        assert [record["agent_steps"] for record in logs.parse(path)] == [92160]


def test_a_resumed_run_supersedes_what_came_after_its_checkpoint(tmp_path):
    path = tmp_path / "log.out"
    first = [{"epoch": epoch, "agent_steps": epoch, "try": 1} for epoch in range(1, 8)]
    second = [{"epoch": epoch, "agent_steps": epoch, "try": 2} for epoch in range(5, 11)]
    path.write_text("".join(plain(record) + "\n" for record in first + second))
    assert logs.parse(path) == first[:4] + second


def test_a_log_without_records_is_one_sentence(tmp_path):
    path = tmp_path / "log.out"
    nothing, junk = "is empty", "holds no training record"
    for content, words in [("", nothing), ("\n \n", nothing), ("\n".join(JUNK), junk)]:
        path.write_text(content)
        with pytest.raises(UserError, match=f"{words}, expected .*--mode train") as error:
            logs.parse(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    path.write_bytes(bytes(range(256)) * 10)
    with pytest.raises(UserError, match="holds no training record"):
        logs.parse(path)
    for missing in (tmp_path / "none.out", tmp_path):
        with pytest.raises(UserError, match="cannot read"):
            logs.parse(missing)


# --- PufferLib's dashboard ----------------------------------------------------------------------

ROUND = Box("╭──╮\n│  │\n│  │\n│  │\n│  │\n│  │\n│  │\n╰──╯\n")


def short(value):
    for size, unit in ((1e12, "t"), (1e9, "b"), (1e6, "m"), (1e3, "k")):
        if value >= size:
            return f"[bright_white]{value / size:.1f}[white]{unit}"
    return f"[bright_white]{value:.0f}"


def columns(*spec):
    table = Table(box=None, expand=True)
    for name, justify, width in spec:
        table.add_column(name, justify=justify, width=width)
    return table


def frame(record, width=80, color=False):
    """A dashboard of the same look as PufferLib 2.0's: columns of a summary, times, losses and statistics."""
    losses = [key for key in record if "loss" in key or key in ("entropy", "clipfrac", "explained_variance")]
    stats = [key for key in record if key not in (*losses, "epoch", "agent_steps", "SPS")]
    outer = Table(box=ROUND, expand=True, show_header=False, border_style="bright_cyan")
    top = Table(box=None, expand=True, show_header=False)
    top.add_row("PufferLib [bright_white]2.0.0", "[cyan]CPU: 33.0%", "GPU: 0.0%", "DRAM: 20.0%")
    summary = columns(("Summary", "left", 16), ("Value", "right", 8))
    for name, text in [
        ("Environment", "beam_rider"),
        ("Agent Steps", short(record["agent_steps"])),
        ("SPS", short(record["SPS"])),
        ("Epoch", short(record["epoch"])),
        ("Uptime", "[white]1[cyan]h [white]2[cyan]m [white]5[cyan]s"),
    ]:
        summary.add_row(name, text)
    times = columns(("Performance", "left", 10), ("Time", "right", 8), ("%", "right", 4))
    for name in ("Evaluate", "  Forward", "Train", "  Learn"):
        times.add_row(name, "1m 40s", " 2%")
    lost = columns(("Losses", "left", 16), ("Value", "right", 8))
    for name in losses:
        lost.add_row(name, f"{record[name]:.3f}")
    middle = Table(box=None, expand=True, pad_edge=False)
    middle.add_row(summary, times, lost)
    left, right = (columns(("User Stats", "left", 20), ("Value", "right", 10)) for _ in "lr")
    for i, name in enumerate(stats):
        if record[name] is not None:
            (left, right)[i % 2].add_row(name, f"{record[name]:.3f}")
    both = Table(box=None, expand=True, pad_edge=False)
    both.add_row(left, right)
    for part in (top, middle, both, "  Message: Checkpoint saved  entropy 9.999"):
        outer.add_row(part)
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=color, no_color=not color).print(outer)
    return "\033[0;0H" + out.getvalue()


def shown(record):
    """What of a record a dashboard can tell."""
    return {key: value for key, value in record.items() if value is not None and key != "SPS"}


@pytest.mark.parametrize("width, color", [(80, False), (80, True), (120, False), (200, True)])
def test_a_dashboards_frames_come_back_as_exact_as_they_can_be(tmp_path, width, color):
    rng = random.Random(1)
    records = list(some_records(rng, 60))
    before = frame({"epoch": 0, "agent_steps": 0, "SPS": 0}, width, color)
    path = tmp_path / "log.out"
    path.write_text("\n".join(["junk", before, *with_junk(rng, (frame(r, width, color) for r in records))]))
    found = logs.parse(path)
    assert [record["epoch"] for record in found] == list(range(1, 61))
    for record, read in zip(records, found, strict=True):
        assert abs(read["agent_steps"] / record["agent_steps"] - 1) < 0.001
        assert abs(read["SPS"] - record["SPS"]) <= 50
        assert shown(read) == {**shown(record), "agent_steps": read["agent_steps"]}
        assert read.get("episode_return") == record["episode_return"]


def test_frames_of_one_epoch_are_one_record(tmp_path):
    first = {"epoch": 3, "agent_steps": 92160, "SPS": 500, "value_loss": 0.5, "episode_return": 312.5}
    again = {"epoch": 3, "agent_steps": 92160, "SPS": 900, "value_loss": 0.25}
    path = tmp_path / "log.out"
    path.write_text(frame(first) + frame(again) + frame({**again, "epoch": 4, "agent_steps": 122880}))
    found = logs.parse(path)
    assert [record["epoch"] for record in found] == [3, 4]
    assert (found[0]["SPS"], found[0]["value_loss"], found[0]["episode_return"]) == (900, 0.25, 312.5)


def test_names_cut_by_a_narrow_dashboard_are_completed(tmp_path):
    record = {"epoch": 3, "agent_steps": 9, "SPS": 5, "explained_variance": 0.5, "episode_return": -1.5}
    path = tmp_path / "log.out"
    path.write_text(frame(record, width=80))
    assert "explained_var" in path.read_text() and "explained_variance" not in path.read_text()
    assert logs.parse(path)[0]["explained_variance"] == 0.5


def test_epochs_beyond_a_thousand_stay_in_order_within_what_was_printed(tmp_path):
    records = list(some_records(random.Random(2), 1500, batch=128))
    path = tmp_path / "log.out"
    printed = records[:20] + records[950::5]
    path.write_text("".join(map(frame, printed)))
    found = logs.parse(path)
    assert len(found) == len(printed)
    for record, read in zip(printed, found, strict=True):
        assert abs(read["epoch"] - record["epoch"]) <= (50 if record["epoch"] >= 1000 else 0)
        assert abs(read["agent_steps"] / record["agent_steps"] - 1) < 0.01
    assert all(a["epoch"] < b["epoch"] for a, b in zip(found, found[1:], strict=False))


def test_steps_that_no_constant_batch_explains_are_taken_as_printed(tmp_path):
    steps = {1: 2000, 2: 50_000, 3: 1_230_000}
    path = tmp_path / "log.out"
    path.write_text("".join(frame({"epoch": e, "agent_steps": s, "SPS": 1}) for e, s in steps.items()))
    assert [record["agent_steps"] for record in logs.parse(path)] == [2000, 50_000, 1_200_000]


def test_unfinished_frames_and_other_boxes_are_ignored(tmp_path):
    record = {"epoch": 3, "agent_steps": 92160, "SPS": 500, "episode_return": 312.5}
    whole = frame(record)
    later = frame({**record, "epoch": 4, "agent_steps": 122880})
    path = tmp_path / "log.out"
    path.write_text("╭─╮\n│ hello 1.000 │\n╰─╯\n" + whole + later[: len(later) * 2 // 3])
    assert [read["epoch"] for read in logs.parse(path)] == [3]
    path.write_text(whole[: len(whole) // 2] + later)
    assert [read["epoch"] for read in logs.parse(path)] == [4]


def test_statistics_that_are_not_finite_are_nothing_measured(tmp_path):
    path = tmp_path / "log.out"
    path.write_text(frame({"epoch": 3, "agent_steps": 9, "SPS": 5, "value_loss": math.nan, "entropy": 0.5}))
    assert logs.parse(path)[0]["value_loss"] is None
