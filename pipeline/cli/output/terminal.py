"""Progress bars on a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.progress import Advance


class Terminal:
    """Progress as bars on stderr, which is a terminal."""

    @contextmanager
    def progress(self, title: str, *, total: int, unit: str) -> Iterator[Advance]:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn(f"{title} [progress.percentage]{{task.percentage:>3.0f}}%"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=total, note="")

            def advance(amount: int, note: str = "", /) -> None:
                bar.update(task, advance=amount, note=note)

            yield advance

    @contextmanager
    def status(self, title: str) -> Iterator[None]:
        from rich.console import Console

        with Console(stderr=True).status(title):
            yield
