"""Puts a table into a page of the documentation, between the comments that mark its place."""

from pathlib import Path


def put_into(page: Path, *, marker: str, text: str) -> None:
    """Replaces what stands between `<!-- table MARKER -->` and `<!-- end -->`; a page without
    that marker is left alone.
    """
    content = page.read_text()
    before, found, rest = content.partition(f"<!-- table {marker} -->\n")
    if found:
        _, end, after = rest.partition("<!-- end -->")
        if not end:
            raise SystemExit(f"{page}: `<!-- table {marker} -->` has no `<!-- end -->` after it")
        page.write_text(f"{before}{found}{text}{end}{after}")
