"""The flow: configuration, scoring on Dask, rounds, report, command line.

    from pipeline import Run, annotate, ingest_rows, run, score

    run("config.yaml")               # all rounds; call it again to resume
    Run.open("runs/first").metrics   # what a run has: losses, indexes, metrics, checkpoints
    score("config.yaml", fraction=0.1)
    ingest_rows(rows, out="corpus")  # of a data frame, a data set, or dicts
    annotate("corpus", name="relevance", kind="ngram", target=["examples.jsonl"])

Messages are logged by the logger `attent` and its children; nothing is printed.
"""

from typing import TYPE_CHECKING, Any

from attent_select import __version__
from attent_select.extras import missing_extras_named
from attent_select.siblings import check_siblings

if TYPE_CHECKING:
    from pipeline.annotation.command import annotate
    from pipeline.corpus.python_rows import ingest_rows
    from pipeline.runs.opened_run import Run
    from pipeline.stages import run, score

__all__ = ["Run", "__version__", "annotate", "ingest_rows", "run", "score"]

check_siblings(__file__, "trainers", "catalogs", "attent_select")


def __getattr__(name: str) -> Any:
    """Import Dask only where it is used: `attent --help` must be quick."""
    if name == "ingest_rows":
        from pipeline.corpus.python_rows import ingest_rows

        return ingest_rows
    if name == "Run":
        from pipeline.runs.opened_run import Run

        return Run
    if name == "annotate":
        with missing_extras_named():
            from pipeline.annotation.command import annotate

        return annotate
    if name not in ("run", "score"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with missing_extras_named():
        from pipeline import stages

    return getattr(stages, name)


def __dir__() -> list[str]:
    return __all__
