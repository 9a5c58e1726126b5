"""Log messages of a command: which of them reach stderr, and a file with all of them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import typer

from attent_select.errors import InputError
from pipeline.progress import is_first_rank

_FILE_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@dataclass(frozen=True)
class LogOptions:
    """What `--verbose`, `--quiet` and `--log-file` say."""

    verbose: bool = False
    quiet: bool = False
    file: Path | None = None

    def __or__(self, other: "LogOptions") -> "LogOptions":
        """These options and those of `other`, which are more specific."""
        return LogOptions(
            (self.verbose or other.verbose) and not other.quiet,
            (self.quiet or other.quiet) and not other.verbose,
            other.file or self.file,
        )

    @property
    def level(self) -> int:
        """The lowest level that is printed; of a launcher's processes the first one prints."""
        if not is_first_rank():
            return logging.ERROR
        if self.verbose:
            return logging.DEBUG
        return logging.WARNING if self.quiet else logging.INFO


@contextmanager
def logging_as(options: LogOptions) -> Iterator[None]:
    """Print what the packages log while the context lasts, and write all of it to the log file.

    Raises:
        InputError: the log file cannot be written.
    """
    logger = logging.getLogger("attent")
    handlers = [_stderr(options), *_file(options)]
    level = logger.level
    logger.setLevel(min(handler.level for handler in handlers))
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.setLevel(level)
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()


class _Stderr(logging.Handler):
    """Prints to what is stderr at the time: a progress bar replaces it while it is shown.

    The same warning is printed once: the runs of a pilot have it in common.
    """

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._warnings: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING:
            message = record.getMessage()
            if message in self._warnings:
                return
            self._warnings.add(message)
        typer.echo(self.format(record), err=True)


class _ForPeople(logging.Formatter):
    """Messages alone; warnings and errors say what they are."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"


def _stderr(options: LogOptions) -> logging.Handler:
    handler = _Stderr(options.level)
    handler.setFormatter(_ForPeople(_FILE_FORMAT if options.verbose else "%(message)s"))
    return handler


def _file(options: LogOptions) -> list[logging.Handler]:
    if options.file is None or not is_first_rank():
        return []
    try:
        handler = logging.FileHandler(options.file, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--log-file {options.file}: cannot be written: {error}") from error
    handler.setLevel(logging.DEBUG)
    handler.setFormatter(logging.Formatter(_FILE_FORMAT))
    return [handler]
