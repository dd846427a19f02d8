"""A report sets a run beside what it was collapsed into, whichever of the two is named."""

import pytest
from saved import Told, of_collapse, source, started_from

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs import (
    CollapseRequest,
    FibersRequest,
    ReportRequest,
    collapse,
    fibers_over_time,
    report,
)
from pufferlib_kcore.jobs.comparing import pair
from pufferlib_kcore.store import FiberHistory, Run


def test_the_pair_is_the_same_from_either_end(base):
    assert pair(base) == (base, None)
    on = started_from(collapse(CollapseRequest(source=source(base), settings=of_collapse())))
    assert pair(base) == (base, on) and pair(on) == (base, on)


def test_a_report_colors_both_at_the_threshold_of_the_collapse_and_writes_two_files(base, capsys):
    done = collapse(CollapseRequest(source=source(base), settings=of_collapse(threshold=0.5)))
    on = started_from(done)
    on.log({"epoch": 3, "agent_steps": 192, "episode_return": 3.0})
    told = Told()
    made = report(ReportRequest(run=base, thresholds=0.1), told)
    assert {what for what, *_ in told.said} == {"coloring 2 checkpoints", "coloring 1 checkpoints"}
    for run in (base, on):
        assert list(FiberHistory.known(run.history_path, 0.5)) and not list(
            FiberHistory.known(run.history_path, 0.1)
        )
    assert made.png.read_bytes().startswith(b"\x89PNG") and "encoder" in made.html.read_text()
    assert str(made.comparison) and capsys.readouterr() == ("", "")


def test_a_run_without_a_checkpoint_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no checkpoint to color"):
        fibers_over_time(FibersRequest(run=Run.create(tmp_path, "cartpole", "empty")))
