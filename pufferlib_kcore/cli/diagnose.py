"""--mode diagnose: what went wrong with a run, or in anybody's file of metrics."""

from __future__ import annotations

from pufferlib_kcore.settings import Args


def run(args: Args) -> int:
    """Print what is seen of each checkpoint, and the findings."""
    if args.metrics is not None:
        return of_metrics(args)
    from pufferlib_kcore.cli.found import run_source
    from pufferlib_kcore.jobs.diagnosing import DiagnoseRequest, diagnose_run
    from pufferlib_kcore.jobs.progress import shown

    settings = args.settings
    request = DiagnoseRequest(
        source=run_source(args),
        states=settings.diagnose.states,
        capacity=settings.diagnose.capacity,
        evaluate=settings.diagnose.evaluate,
        threshold=settings.collapse.one_or_by_kind(),
        episodes=8 if args.episodes is None else args.episodes,
        true_metric=settings.watch.true_metric,
    )
    found = diagnose_run(request, shown)
    print(found)
    print(f"wrote {found.run.diagnosis_path} and {found.run.findings_path}")
    return 0


def of_metrics(args: Args) -> int:
    """Findings alone, from a file; needs no torch."""
    from pufferlib_kcore.diagnostics.findings import diagnose
    from pufferlib_kcore.diagnostics.records import read

    records = read(str(args.metrics), args.settings.watch.true_metric)
    found = diagnose(records)
    print(f"{len(records)} records of {args.metrics}: {', '.join(sorted(records.columns))}")
    print(found)
    return 0
