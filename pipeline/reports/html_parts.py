"""Parts of the HTML report: tables, and samples with their pictures or texts."""

import base64
import html
from collections.abc import Iterable, Sequence

from catalogs.shard_format import Sample
from pipeline.reports.report_tables import ShownSample

_TEXT_CHARACTERS = 600
_IMAGE_TYPES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an HTML table; titles and cells are escaped."""
    head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def samples(shown: Sequence[ShownSample], *, title: str) -> str:
    """Return a gallery of samples with the values that they are shown for, named `title`."""
    figures = [(_figure(one.sample), one) for one in shown]
    kind = "text" if figures and figures[0][0].startswith("<pre>") else ""
    cells = "".join(
        f"<figure>{figure}<figcaption>{html.escape(title)} {one.value:.3f} · shard {one.shard_id},"
        f" row {one.row}{_short_values(one.sample)}</figcaption></figure>"
        for figure, one in figures
    )
    return f'<div class="samples {kind}">{cells}</div>'


def _figure(sample: Sample) -> str:
    """Return the sample's picture if it has one, else its texts."""
    for value in sample.values():
        if isinstance(value, bytes) and (kind := _image_type(value)):
            encoded = base64.b64encode(value).decode()
            return f'<img alt="" src="data:image/{kind};base64,{encoded}">'
    texts = [value for value in sample.values() if isinstance(value, str)]
    return f"<pre>{html.escape(chr(10).join(texts)[:_TEXT_CHARACTERS])}</pre>"


def _short_values(sample: Sample) -> str:
    numbers = {k: v for k, v in sample.items() if isinstance(v, int | float)}
    return "".join(html.escape(f" · {name} {value}") for name, value in numbers.items())


def _image_type(value: bytes) -> str | None:
    return next((kind for magic, kind in _IMAGE_TYPES.items() if value.startswith(magic)), None)
