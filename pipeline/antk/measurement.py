"""`attent antk`: the attention neural tangent kernel of every checkpoint of a run.

Which checkpoints, files (`antk/<kind>/<checkpoint>.parquet`) and the table made of them. Not
here: the kernel (`trainers/antk`), the probe samples (`probe_samples.py`), charts
(`pipeline/charts.py`). A kernel that is there, of the same weights, is not computed again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.errors import InputError, MissingError
from attent_select.schema import KERNEL
from catalogs import Corpus, storage
from catalogs.layout import Layout
from catalogs.tables import frames
from pipeline.antk.probe_samples import ProbeSample, probe_samples
from pipeline.config import run_config
from pipeline.config.sections import RunConfig
from pipeline.progress import progress

if TYPE_CHECKING:
    from trainers.antk import Kernel, Output
    from trainers.checkpoint import Checkpoint

INITIAL = "initial"
_SHOWN_EIGENVALUES = 10
_TABLE: dict[str, Any] = {
    "kind": pl.String,
    "output": pl.String,
    "checkpoint": pl.String,
    "step": pl.UInt64,
    "group": pl.String,
    "drift": pl.Float64,
    "error": pl.Float64,
    "resolved": pl.Boolean,
    "trace": pl.Float64,
    "trace_share": pl.Float64,
    "effective_rank": pl.Float64,
    "eigenvalues": pl.List(pl.Float64),
}


@dataclass(frozen=True)
class KernelSettings:
    """What of a kernel can be chosen: f, the probe, a sketch instead of the exact one, dtype."""

    output: str | None = None
    probe: int = 64
    sketch: int | None = None
    dtype: str = "float32"

    def kind(self, output: str) -> str:
        """The name of the folder: kernels of one kind can be compared."""
        parts = [output, str(self.probe)]
        parts += [] if self.sketch is None else [f"sketch{self.sketch}"]
        parts += [] if self.dtype == "float32" else [self.dtype]
        return "-".join(parts)


@dataclass(frozen=True)
class AntkResult:
    """What `attent antk` found. `meaning` says what f is; `computed` of the kernels were made now;
    `checkpoints` are the rows of `table`, without those of groups unless they were asked for.
    """

    output: str
    meaning: str
    probe: int
    sketch: int | None
    dtype: str
    computed: int
    skipped: int
    checkpoints: list[dict[str, Any]]
    folder: str
    figure: str


def measure(
    run: str,
    settings: KernelSettings | None = None,
    *,
    rounds: Sequence[int] | None = None,
    groups: bool = False,
) -> AntkResult:
    """The kernels of a run's checkpoints, and how they drift.

    Args:
        run: a run, or its CONFIG.yaml.
        settings: which kernel.
        rounds: the checkpoints of these rounds alone, beside the initial one; default: all.
        groups: also say it of every group of parameters.

    Raises:
        MissingError: nothing was trained, or the checkpoint of a round is not there.
        InputError: the task has no such output, the probe is larger than the corpus, or the exact
            kernel would be too large.
    """
    from trainers.antk import Output

    config, settings = run_config.load(run), settings or KernelSettings()
    output = Output.of(config.task.task, settings.output)
    kind = settings.kind(output.name)
    checkpoints = _checkpoints(config, rounds)
    missing = _missing(config, settings, output.name, checkpoints)
    _compute(config, settings, output, missing)
    found = _table(config.run, kind, list(checkpoints))
    figure = _draw(found, Layout(config.run).kernel_figure(kind))
    shown = found if groups else found.filter(pl.col("group") == "all")
    return AntkResult(
        output=output.name,
        meaning=output.meaning,
        probe=settings.probe,
        sketch=settings.sketch,
        dtype=settings.dtype,
        computed=len(missing),
        skipped=len(checkpoints) - len(missing),
        checkpoints=shown.drop("kind", "output").to_dicts(),
        folder=Layout(config.run).kernels(kind),
        figure=figure,
    )


def table(run: str) -> pl.DataFrame:
    """A row per kind, checkpoint and group (`all`: of all parameters), in that order; perhaps none.

    Columns: `kind`, `output`, `checkpoint`, `step`, `group`; `drift` ‖K_t − K_{t−1}‖_F / ‖K_t‖_F
    since the checkpoint before of the same kind, the `error` of the sketch, and whether the drift
    is `resolved`, larger than that; `trace`, `trace_share` (of the trace of all),
    `effective_rank`, and the ten largest `eigenvalues`.
    """
    names: dict[str, list[str]] = {}
    folder = storage.normalise(Layout(run).all_kernels)
    for file in storage.list_objects(folder):
        kind, _, name = file.url.removeprefix(folder).lstrip("/").rpartition("/")
        if name.endswith(".parquet"):
            names.setdefault(kind, []).append(name.removesuffix(".parquet"))
    # `initial` comes before the numbers of rounds.
    order = {kind: sorted(each, key=lambda n: (n != INITIAL, n)) for kind, each in names.items()}
    tables = [_table(run, kind, each) for kind, each in sorted(order.items())]
    return pl.concat([pl.DataFrame(schema=_TABLE), *tables])


def _checkpoints(config: RunConfig, rounds: Sequence[int] | None) -> dict[str, "Checkpoint"]:
    """Name → checkpoint, in order of training."""
    from trainers import checkpoint as checkpoints

    layout = Layout(config.run)
    trained = _trained(layout)
    wanted = range(max(trained, default=-1) + 1) if rounds is None else sorted(set(rounds))
    urls = {INITIAL: layout.initial_checkpoint}
    urls |= {f"{number:05d}": layout.checkpoint(number) for number in wanted}
    found = {name: checkpoints.open(url) for name, url in urls.items()}
    if lacking := [name for name, each in found.items() if each is None]:
        raise MissingError(
            f"{config.run}: there is no finished checkpoint {lacking[0]} at {urls[lacking[0]]}: "
            + (
                f"train the round first, or name others by --round; there are "
                f"{', '.join(map(str, trained))}"
                if trained
                else "`attent run` makes it"
            )
        )
    return {name: each for name, each in found.items() if each is not None}


def _trained(layout: Layout) -> list[int]:
    """The rounds with a finished checkpoint."""
    from trainers.checkpoint import MARKER

    folder = storage.normalise(layout.checkpoints)
    names = (
        found.url.removeprefix(folder).strip("/").split("/")
        for found in storage.list_objects(folder)
    )
    return sorted(int(n[0]) for n in names if n[1:] == [MARKER] and n[0].isdigit())


def _missing(
    config: RunConfig,
    settings: KernelSettings,
    output: str,
    checkpoints: Mapping[str, "Checkpoint"],
) -> dict[str, tuple["Checkpoint", frames.Notes]]:
    """The checkpoints whose kernel is not there yet, and what its file will say of it."""
    corpus, layout = Corpus.open(config.run), Layout(config.run)
    found = {}
    for name, checkpoint in checkpoints.items():
        notes = {
            "corpus_id": corpus.corpus_id,
            "weights_digest": checkpoint.weights_digest,
            "step": checkpoint.step,
            "output": output,
            "seed": config.seed,
            "sketch": settings.sketch,
            "dtype": settings.dtype,
        }
        url = layout.kernel(settings.kind(output), name)
        if storage.info(url) is None or frames.notes_of(frames.footer_of(url)) != notes:
            found[name] = (checkpoint, notes)
    return found


def _compute(
    config: RunConfig,
    settings: KernelSettings,
    output: "Output",
    missing: Mapping[str, tuple["Checkpoint", frames.Notes]],
) -> None:
    from trainers.antk import Function, Sketch, empirical_kernel

    if settings.probe < 1:
        raise InputError(f"--probe {settings.probe}: expected at least 1 sample")
    sketch = None if settings.sketch is None else Sketch(settings.sketch, config.seed)
    models = config.task.task.models(config.model)
    probe: list[ProbeSample] = []
    with progress("kernel", total=len(missing) * settings.probe, unit="samples") as advance:
        for name, (checkpoint, notes) in missing.items():
            model = checkpoint.load(models)
            probe = probe or probe_samples(config, model, num_samples=settings.probe)
            function = Function(model, [one.batch for one in probe], output, dtype=settings.dtype)
            kernel = empirical_kernel(function, sketch=sketch, advance=advance)
            url = Layout(config.run).kernel(settings.kind(output.name), name)
            frames.publish_frame(url, _rows(kernel, probe), notes=notes)


def _rows(kernel: "Kernel", probe: Sequence[ProbeSample]) -> pl.DataFrame:
    num_components = len(kernel.values) // len(probe)
    rows = [
        (group, one.shard_id, one.row, component, kernel.values[place], values[place])
        for group, values in kernel.groups.items()
        for place, (one, component) in enumerate(
            (one, component) for one in probe for component in range(num_components)
        )
    ]
    return pl.DataFrame(rows, schema=KERNEL, orient="row")


def _read(url: str) -> tuple["Kernel", frames.Notes]:
    from trainers.antk import Kernel

    rows, notes = frames.read_frame(url, schema=dict(KERNEL))
    groups = {
        str(group): np.array(part["kernel"].to_list())
        for (group,), part in rows.group_by("group", maintain_order=True)
    }
    values = rows.filter(pl.col("group") == rows["group"][0])["value"].to_numpy()
    return Kernel(groups, values, notes["sketch"]), notes


def _table(run: str, kind: str, names: Sequence[str]) -> pl.DataFrame:
    rows = []
    before: Mapping[str, npt.NDArray[np.float64]] | None = None
    for name in names:
        kernel, notes = _read(Layout(run).kernel(kind, name))
        kernels = {"all": kernel.total, **kernel.groups}
        about = {"kind": kind, "output": notes["output"], "checkpoint": name, "step": notes["step"]}
        rows += [about | row for row in _numbers(kernels, before, kernel.sketch_size)]
        before = kernels
    return pl.DataFrame(rows, schema=_TABLE, orient="row")


def _numbers(
    kernels: Mapping[str, npt.NDArray[np.float64]],
    before: Mapping[str, npt.NDArray[np.float64]] | None,
    sketch_size: int | None,
) -> Iterator[dict[str, Any]]:
    from trainers.antk import drift, effective_rank, eigenvalues, sketch_error

    for group, kernel in kernels.items():
        moved = None if before is None else drift(kernel, before[group])
        error = sketch_error(kernel, sketch_size)
        trace = float(np.trace(kernel))
        yield {
            "group": group,
            "drift": moved,
            "error": error,
            "resolved": None if moved is None else moved > error,
            "trace": trace,
            "trace_share": trace / max(float(np.trace(kernels["all"])), np.finfo(float).tiny),
            "effective_rank": effective_rank(kernel),
            "eigenvalues": eigenvalues(kernel)[:_SHOWN_EIGENVALUES].tolist(),
        }


def _draw(found: pl.DataFrame, url: str) -> str:
    import vl_convert

    from pipeline import charts

    storage.publish(url, vl_convert.vegalite_to_png(charts.kernels(found).to_dict(), scale=2))
    return url
