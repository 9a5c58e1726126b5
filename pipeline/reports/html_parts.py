"""Parts of the HTML report: tables, samples with their pictures or texts, and scripts."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from catalogs.shard_format import Sample
from pipeline.reports.report_tables import ShownSample

_TEXT_CHARACTERS = 600
_IMAGE_TYPES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}


@dataclass(frozen=True)
class Table:
    """A table of texts, which the template escapes.

    Attributes:
        titles, rows, total: the cells; `total` is a last row, if there is one.
        title, caption: what the table shows, and how to read it.
        kind: CSS class: `reasons` aligns the last column to the left.
    """

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    total: Sequence[str] = ()
    title: str = ""
    caption: str = ""
    kind: str = ""


@dataclass(frozen=True)
class SampleFigure:
    """A sample to show: its picture (a data URI) or its texts, and a caption."""

    image: str
    text: str
    caption: str


@dataclass(frozen=True)
class Script:
    """A script of the page and the base64 of its SHA-256, by which the page allows it to run."""

    code: str
    digest: str

    @classmethod
    def of(cls, code: str) -> "Script":
        """Return the script; a browser digests it with `\\n` at the end of every line."""
        code = code.replace("\r\n", "\n").replace("\r", "\n")
        digest = hashlib.sha256(code.encode()).digest()
        return cls(code, base64.b64encode(digest).decode())


def sample_figures(shown: Sequence[ShownSample]) -> list[SampleFigure]:
    """Return the samples with the values that they are shown for."""
    return [_figure(one) for one in shown]


def _figure(shown: ShownSample) -> SampleFigure:
    numbers = {k: v for k, v in shown.sample.items() if isinstance(v, int | float)}
    short = "".join(f" · {name} {value}" for name, value in numbers.items())
    caption = f"{shown.value:.3f} · shard {shown.shard_id}, row {shown.row}{short}"
    texts = [value for value in shown.sample.values() if isinstance(value, str)]
    return SampleFigure(_picture(shown.sample), "\n".join(texts)[:_TEXT_CHARACTERS], caption)


def _picture(sample: Sample) -> str:
    """Return the sample's first picture as a data URI; an empty text without one."""
    for value in sample.values():
        if isinstance(value, bytes) and (kind := _image_type(value)):
            return f"data:image/{kind};base64,{base64.b64encode(value).decode()}"
    return ""


def _image_type(value: bytes) -> str | None:
    return next((kind for magic, kind in _IMAGE_TYPES.items() if value.startswith(magic)), None)
