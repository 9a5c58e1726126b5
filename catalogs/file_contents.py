"""Files of another kind than their names say: Git LFS pointers, web pages, archives. Pure."""

from typing import Final

from attent_select.errors import InputError

# Bytes from the start of a file that show its kind.
HEAD_BYTES: Final = 64
_DOWNLOAD: Final = "often the answer of a server to a failed download: download the file again"
# How a file starts, in lower case; the suffixes of names for which that is right; what to do.
_KINDS: Final[tuple[tuple[bytes, tuple[str, ...], str], ...]] = (
    (
        b"version https://git-lfs.github.com/spec/",
        (),
        "a pointer of Git LFS instead of the data: run `git lfs pull` in its repository",
    ),
    (b"<!doctype html", (), f"a web page, {_DOWNLOAD}"),
    (b"<html", (), f"a web page, {_DOWNLOAD}"),
    (b"<?xml", (), f"XML, {_DOWNLOAD}"),
    (b"\xff\xfe", (), "text in UTF-16: save it as UTF-8"),
    (b"\xfe\xff", (), "text in UTF-16: save it as UTF-8"),
    (b"\x1f\x8b", (".gz", ".tgz"), "compressed with gzip: its name must end in .gz"),
    (b"\x28\xb5\x2f\xfd", (".zst",), "compressed with zstd: its name must end in .zst"),
    (b"pk\x03\x04", (), "a ZIP archive: unpack it"),
    (b"par1", (".parquet",), "a Parquet file: its name must end in .parquet"),
    (b"arrow1", (), "an Arrow file: read it with `datasets` or pyarrow, and write it as Parquet"),
    (b"\x89hdf", (), "an HDF5 file: write it as Parquet"),
)


def check_contents(head: bytes, url: str) -> None:
    """Check that the first bytes of a file are not those of another kind than its name says.

    Raises:
        InputError: they are; says what the file is, and what to do.
    """
    for start, suffixes, kind in _KINDS:
        is_right = bool(suffixes) and url.lower().endswith(suffixes)
        if head.lower().startswith(start) and not is_right:
            raise InputError(f"{url} is {kind}")
