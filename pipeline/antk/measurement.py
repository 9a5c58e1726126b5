"""`attent antk`: measure the attention neural tangent kernel of every checkpoint of a run.

A kernel that exists for the same weights is not computed again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from attent_select.errors import InputError, MissingError
from attent_select.schema import KERNEL
from catalogs import Corpus, storage
from catalogs.layout import Layout
from catalogs.tables import frames
from pipeline.antk.drift_table import INITIAL, drift_of_kind
from pipeline.antk.probe_samples import ProbeSample, probe_samples
from pipeline.config import run_config
from pipeline.config.sections import RunConfig
from pipeline.progress import progress

if TYPE_CHECKING:
    from trainers.antk import Kernel, Output
    from trainers.checkpoint import Checkpoint


@dataclass(frozen=True)
class KernelSettings:
    """Which kernel is measured.

    Attributes:
        output: the model output f; default: `target` where the task has it, else `loss`.
        probe: number of samples.
        sketch: numbers that gradients are projected to; None for the exact kernel.
        dtype: `float32` or `float64`.
    """

    output: str | None = None
    probe: int = 64
    sketch: int | None = None
    dtype: str = "float32"

    def kind(self, output: str) -> str:
        """Return the name of the kernels' folder: kernels of one kind can be compared."""
        parts = [output, str(self.probe)]
        parts += [] if self.sketch is None else [f"sketch{self.sketch}"]
        parts += [] if self.dtype == "float32" else [self.dtype]
        return "-".join(parts)


@dataclass(frozen=True)
class AntkResult:
    """What `attent antk` measured.

    Attributes:
        meaning: what the output f is, in words.
        computed: number of kernels that were computed by this call.
        skipped: number of kernels that existed before.
        checkpoints: the rows of the drift table, those of groups only on request.
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
    trust_run: bool = False,
) -> AntkResult:
    """Measure the kernels of a run's checkpoints and their drift.

    Args:
        run: a run, or its CONFIG.yaml.
        settings: which kernel.
        rounds: measure only the checkpoints of these rounds, and the initial one; default: all.
        groups: also return the rows of every parameter group.
        trust_run: use code that the run.yaml of a run names.

    Raises:
        MissingError: nothing was trained, or a round has no checkpoint.
        InputError: the task has no such output, the probe is larger than the corpus, or the exact
            kernel would be too large.
    """
    from trainers.antk import Output

    settings = settings or KernelSettings()
    if settings.dtype not in ("float32", "float64"):
        raise InputError(f"--dtype {settings.dtype}: expected float32 or float64")
    config = run_config.load(run, trust_run=trust_run, sections=("task", "model"))
    output = Output.of(config.task.task, settings.output)
    kind = settings.kind(output.name)
    checkpoints = _checkpoints(config, rounds)
    missing = _missing(config, settings, output.name, checkpoints)
    _compute(config, settings, output, missing)
    table = drift_of_kind(config.run, kind, list(checkpoints))
    figure = _draw(table, Layout(config.run).kernel_figure(kind))
    shown = table if groups else table.filter(pl.col("group") == "all")
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


def _checkpoints(config: RunConfig, rounds: Sequence[int] | None) -> dict[str, "Checkpoint"]:
    """Return name → checkpoint, in order of training."""
    from trainers import checkpoint

    layout = Layout(config.run)
    trained = _trained_rounds(layout)
    numbers = range(max(trained, default=-1) + 1) if rounds is None else sorted(set(rounds))
    urls = {INITIAL: layout.initial_checkpoint}
    urls |= {f"{number:05d}": layout.checkpoint(number) for number in numbers}
    opened = {name: checkpoint.open(url) for name, url in urls.items()}
    for name, each in opened.items():
        if each is None:
            hint = (
                "train the round first, or choose other rounds with --round; finished rounds: "
                f"{', '.join(map(str, trained))}"
                if trained
                else "`attent run` makes it"
            )
            raise MissingError(
                f"{config.run}: there is no finished checkpoint {name} at {urls[name]}: {hint}"
            )
    return {name: each for name, each in opened.items() if each is not None}


def _trained_rounds(layout: Layout) -> list[int]:
    """Return the rounds with a finished checkpoint."""
    from trainers.checkpoint import MARKER

    folder = storage.normalise(layout.checkpoints)
    paths = (
        file.url.removeprefix(folder).strip("/").split("/") for file in storage.list_objects(folder)
    )
    return sorted(int(path[0]) for path in paths if path[1:] == [MARKER] and path[0].isdigit())


def _missing(
    config: RunConfig,
    settings: KernelSettings,
    output: str,
    checkpoints: Mapping[str, "Checkpoint"],
) -> dict[str, tuple["Checkpoint", frames.Notes]]:
    """Return the checkpoints without a kernel, each with the notes for the kernel's file."""
    corpus, layout = Corpus.open(config.run), Layout(config.run)
    missing = {}
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
            missing[name] = (checkpoint, notes)
    return missing


def _compute(
    config: RunConfig,
    settings: KernelSettings,
    output: "Output",
    missing: Mapping[str, tuple["Checkpoint", frames.Notes]],
) -> None:
    """Compute and publish the kernels of the checkpoints in `missing`."""
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
    """Return a row per group, sample and component of f."""
    num_components = len(kernel.values) // len(probe)
    components = [(one, component) for one in probe for component in range(num_components)]
    rows = [
        (group, one.shard_id, one.row, component, kernel.values[number], values[number])
        for group, values in kernel.groups.items()
        for number, (one, component) in enumerate(components)
    ]
    schema: dict[str, Any] = {**KERNEL}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _draw(table: pl.DataFrame, url: str) -> str:
    """Publish the figure of a drift table as PNG at `url`."""
    import vl_convert

    from pipeline import charts

    storage.publish(url, vl_convert.vegalite_to_png(charts.kernels(table).to_dict(), scale=2))
    return url
