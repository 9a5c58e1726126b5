"""Insert a table into a page of the documentation, between two comments."""

from pathlib import Path


def put_into(page: Path, *, marker: str, text: str) -> None:
    """Replace the text between `<!-- table MARKER -->` and `<!-- end -->`; a page without the
    marker is unchanged.
    """
    content = page.read_text()
    before, start, rest = content.partition(f"<!-- table {marker} -->\n")
    if start:
        _, end, after = rest.partition("<!-- end -->")
        if not end:
            raise SystemExit(f"{page}: `<!-- table {marker} -->` has no `<!-- end -->` after it")
        page.write_text(f"{before}{start}{text}{end}{after}")
