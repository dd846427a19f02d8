"""Reporting: what a person sees of a run while it trains."""

import io
import math
import re

from rich.console import Console

from pufferlib_kcore.training import metrics, reporting
from pufferlib_kcore.training.acting import Played
from pufferlib_kcore.training.clock import Clock
from pufferlib_kcore.training.ppo.objective import LOSSES

RUN = "experiments/beam_rider-0123abcd/collapsed_model_thr_03_000051/beam_rider-4567cdef"
HEADER = f"run={RUN} env=beam_rider policy=LSTMWrapper(Convolutional) params=3948202 vec=multiprocessing"
RECORD = {
    **dict.fromkeys(metrics.LINE, 0.1),
    **{"overview/epoch": 3, "overview/agent_steps": 30_000, "overview/SPS": 1234.5, "overview/uptime": 70.0},
    **{"environment/episode_return": 312.5, "environment/episode_length": 400.0, "environment/episodes": 2},
    **{"overview/learning_rate": 1e-3, "overview/wall_time": 1.7e9},
}
NONE_ENDED = {
    **RECORD,
    **{"environment/episode_return": math.nan, "environment/episode_length": math.nan},
    "environment/episodes": 0,
}
ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"


def shown(*records, width=80, height=24):
    """What a dashboard writes to a terminal.  -> on its own screen, and after it"""
    clock = Clock()
    clock.seconds.update(dict.fromkeys(("env", "eval_forward", "eval_misc", "train_forward", "learn"), 1.0))
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=height, color_system=None)
    dashboard = reporting.Dashboard(HEADER, 100_000, clock, console)
    for record in records:
        dashboard(record)
        dashboard.live.refresh()
    dashboard.close()
    before, _, rest = console.file.getvalue().partition(ENTER)
    own, _, after = rest.partition(LEAVE)
    assert not before.strip()
    return own, after


def test_the_panel_names_the_run_the_environment_and_what_the_machine_bears():
    _, after = shown(RECORD)
    assert RUN in after.replace("\n", "").replace(" ", "")
    for word in ("environment  beam_rider", "parameters   3,948,202", "CPU ", "memory ", "312.50", "400.0"):
        assert word in after


def test_a_known_return_keeps_its_length_where_no_episode_ended_and_nan_is_never_shown():
    _, after = shown(RECORD, NONE_ENDED)
    assert "312.50" in after and "400.0" in after
    _, after = shown(NONE_ENDED)
    assert "none ended yet" in after and "nan" not in after.replace("explained_variance", "")


def test_it_is_drawn_on_a_screen_of_its_own_and_fits_a_small_terminal():
    """So that nothing is left of it there when the terminal's size has changed."""
    own, after = shown(RECORD)
    assert "epoch" in own and after.count("agent steps") == 1
    assert len(after.strip("\n").splitlines()) <= 24
    assert all(len(line) <= 80 for line in after.splitlines())


def test_it_shows_metrics_that_it_was_not_told_of_and_keeps_the_last_known():
    _, after = shown({**RECORD, "diagnosis/churn": 0.125, "environment/score": 3}, RECORD, height=60)
    for word in ("Diagnosis", r"churn\s+0\.1250", "Environment", r"score\s+3 "):
        assert re.search(word, after)


def test_the_plain_line_keeps_its_keys_and_trackers_their_sections():
    line = reporting.plain_line({**RECORD, "diagnosis/churn": 0.125})
    keys = [pair.split("=")[0] for pair in line.split()]
    assert keys[:6] == ["epoch", "agent_steps", "SPS", "episode_return", "episode_length", "episodes"]
    assert keys[6:] == [*LOSSES, "explained_variance", "learning_rate", "uptime"]
    assert line.startswith("epoch=3 agent_steps=30000 SPS=1234.5 episode_return=312.5")
    tracked = reporting.tracked({**NONE_ENDED, "diagnosis/churn": 0.125, "fibers/overview/x": 2})
    overview = {"epoch", "agent_steps", "SPS", "learning_rate", "uptime"}
    own = {"environment/episodes", "diagnosis/churn", "fibers/overview/x"}
    losses = {f"losses/{name}" for name in (*LOSSES, "explained_variance")}
    assert tracked.keys() == {f"0verview/{name}" for name in overview} | losses | own


def test_one_episode_has_no_standard_error():
    import numpy as np

    one, two = (Played(np.array(r), np.array(r)) for r in ([5.0], [5.0, 7.0]))
    assert "+-" not in str(one) and "nan" not in str(one) and "episode_return=5 episode_length=5" in str(one)
    assert "episode_return=6 +- 1 (standard error)" in str(two)
