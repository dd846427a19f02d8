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
    told = Told()
    made = report(ReportRequest(run=base, thresholds=0.1), told)
    assert {what for what, *_ in told.said} == {"coloring 2 checkpoints", "coloring 1 checkpoints"}
    for run in (base, on):
        assert list(FiberHistory.known(run.history_path, 0.5)) and not list(
            FiberHistory.known(run.history_path, 0.1)
        )
    assert made.png.read_bytes().startswith(b"\x89PNG") and "encoder" in made.html.read_text()
    assert str(made.comparison) and capsys.readouterr() == ("", "")


def test_where_a_search_chose_the_widths_the_report_takes_the_threshold_that_it_is_given(base):
    settings = of_collapse(threshold="auto", target_params=0.5)
    on = started_from(collapse(CollapseRequest(source=source(base), settings=settings)))
    made = report(ReportRequest(run=on, thresholds=0.1))
    assert made.png.parent == on.path and list(FiberHistory.known(base.history_path, 0.1))


def test_a_run_without_a_checkpoint_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no checkpoint to color"):
        fibers_over_time(FibersRequest(run=Run.create(tmp_path, "cartpole", "empty")))
