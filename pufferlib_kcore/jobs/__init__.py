"""Jobs: what the programs do, as functions of small frozen requests, without the command line.

    source = RunSource(run=store.find_run("experiments", "beam_rider-0123abcd"))
    done = collapse(CollapseRequest(source=source, settings=settings.resolve().collapse))
    done.policy, done.provenance["params_after"], done.folder.fibers_path

A job prints nothing: what there is to say is in what it returns, and a `watch`, such as `progress.shown`, is
told how far it is.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pufferlib_kcore.jobs.autotuning import AutotuneRequest, autotune
    from pufferlib_kcore.jobs.batch.request import BatchRequest
    from pufferlib_kcore.jobs.batch.run import run_batch
    from pufferlib_kcore.jobs.collapsing import CollapseRequest, collapse
    from pufferlib_kcore.jobs.comparing import ReportRequest, report
    from pufferlib_kcore.jobs.controls import ControlRequest, control
    from pufferlib_kcore.jobs.diagnosing import DiagnoseRequest, diagnose_run
    from pufferlib_kcore.jobs.evaluation import EvaluateRequest, evaluate
    from pufferlib_kcore.jobs.exporting import export
    from pufferlib_kcore.jobs.fibers import FibersRequest, fibers_over_time
    from pufferlib_kcore.jobs.merging import MergeRequest, merge, search
    from pufferlib_kcore.jobs.profiling import ProfileRequest, profile
    from pufferlib_kcore.jobs.recording import RecordRequest, record_states
    from pufferlib_kcore.jobs.source import FileSource, RunSource
    from pufferlib_kcore.jobs.stored import Over
    from pufferlib_kcore.jobs.training import TrainRequest, resumed, retrained, train

PLACES = {
    "AutotuneRequest": "autotuning",
    "BatchRequest": "batch.request",
    "CollapseRequest": "collapsing",
    "ControlRequest": "controls",
    "DiagnoseRequest": "diagnosing",
    "EvaluateRequest": "evaluation",
    "FibersRequest": "fibers",
    "FileSource": "source",
    "MergeRequest": "merging",
    "Over": "stored",
    "ProfileRequest": "profiling",
    "RecordRequest": "recording",
    "ReportRequest": "comparing",
    "RunSource": "source",
    "TrainRequest": "training",
    "autotune": "autotuning",
    "collapse": "collapsing",
    "control": "controls",
    "diagnose_run": "diagnosing",
    "evaluate": "evaluation",
    "export": "exporting",
    "fibers_over_time": "fibers",
    "merge": "merging",
    "profile": "profiling",
    "record_states": "recording",
    "report": "comparing",
    "resumed": "training",
    "retrained": "training",
    "run_batch": "batch.run",
    "search": "merging",
    "train": "training",
}
__all__ = [
    "AutotuneRequest",
    "BatchRequest",
    "CollapseRequest",
    "ControlRequest",
    "DiagnoseRequest",
    "EvaluateRequest",
    "FibersRequest",
    "FileSource",
    "MergeRequest",
    "Over",
    "ProfileRequest",
    "RecordRequest",
    "ReportRequest",
    "RunSource",
    "TrainRequest",
    "autotune",
    "collapse",
    "control",
    "diagnose_run",
    "evaluate",
    "export",
    "fibers_over_time",
    "merge",
    "profile",
    "record_states",
    "report",
    "resumed",
    "retrained",
    "run_batch",
    "search",
    "train",
]


def __getattr__(name: str) -> Any:
    """Each is loaded when first asked for: how a process starts, and what to type next, need no torch."""
    if name in PLACES:
        return getattr(import_module(f"{__name__}.{PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
