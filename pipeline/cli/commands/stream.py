"""`attent stream`: the training stream without training."""

from typing import TYPE_CHECKING, Annotated

import typer

from attent_select.errors import InputError
from pipeline.cli.options import MAX_SEED, Run, TrustRun, trust_formats
from pipeline.cli.output.command import command
from pipeline.cli.output.show import show_values

if TYPE_CHECKING:
    from pipeline.training.planned_reads import ReadPlanResult
    from pipeline.training.stream_check import StreamResult

Classes = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Measure how well the values of this column are mixed."),
]
StreamingSet = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Replace a key of the section `streaming`; repeatable."
    ),
]


@command(show_values)
def stream(
    *,
    corpus: Run,
    index: Annotated[str, typer.Option(metavar="INDEX", help="An index file.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Global batch size.")],
    world_size: Annotated[int, typer.Option(min=1, help="Number of ranks.")] = 1,
    rank: Annotated[int, typer.Option(min=0, help="The rank whose stream is read.")] = 0,
    epochs: Annotated[int, typer.Option(min=1, help="Number of passes over the index.")] = 1,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of the order.")] = 0,
    digest: Annotated[
        bool, typer.Option("--digest", help="Only compute the digests of the order.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only show which reads are planned.")
    ] = False,
    classes: Classes = None,
    settings: StreamingSet = None,
    trust_run: TrustRun = False,
) -> "StreamResult | ReadPlanResult":
    """Read the training stream without training: throughput, bytes, read amplification."""
    from pipeline.training.planned_reads import plan_reads, streaming_settings
    from trainers import OrderSettings, RankShare

    trust_formats(corpus, trust_run=trust_run)
    order, share = OrderSettings(seed, batch_size, epochs=epochs), RankShare(rank, world_size)
    streaming = streaming_settings(corpus, settings or ())
    if not plan:
        from pipeline.training.stream_check import read_stream

        return read_stream(
            corpus,
            index=index,
            order=order,
            share=share,
            settings=streaming,
            classes=classes,
            digest_only=digest,
        )
    if digest or classes is not None:
        raise InputError("--plan cannot be combined with --digest or --classes")
    return plan_reads(corpus, index=index, order=order, share=share, settings=streaming)
