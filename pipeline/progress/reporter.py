"""The protocol of those who show progress."""

from contextlib import AbstractContextManager
from typing import Protocol


class Advance(Protocol):
    """Add `amount` to what is done; `note` replaces the text beside it."""

    def __call__(self, amount: int, note: str = "", /) -> None: ...


class Reporter(Protocol):
    """Reporter of the progress of one task at a time."""

    def progress(self, title: str, *, total: int, unit: str) -> AbstractContextManager[Advance]:
        """Show how many of `total` units are done while the context lasts."""
        ...

    def status(self, title: str) -> AbstractContextManager[None]:
        """Show `title` while the context lasts: for work whose amount is not known."""
        ...
