"""Plain header blocks of tar files are read as `tarfile` reads them, however they are damaged."""

import tarfile

from hypothesis import given
from hypothesis import strategies as st

from catalogs.tars.headers import _Member

TYPES = [tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.CONTTYPE]
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


@st.composite
def blocks(draw: st.DrawFn) -> bytes:
    """A header block as `tarfile` writes it, with some bytes replaced."""
    member = tarfile.TarInfo(draw(st.text("abé./ \0", min_size=1, max_size=40)))
    member.size = draw(st.integers(0, 8**11 - 1))
    member.type = draw(st.sampled_from(TYPES))
    written = member.tobuf(draw(st.sampled_from(FORMATS)), "utf-8", "surrogateescape")
    block = bytearray(written[-tarfile.BLOCKSIZE :])
    for place in draw(st.lists(st.integers(0, tarfile.BLOCKSIZE - 1), max_size=3)):
        block[place] = draw(st.integers(0, 255))
    if draw(st.booleans()):  # a right checksum, in one of its forms
        checksum = sum(block) - sum(block[148:156]) + 8 * 32
        block[148:156] = (
            draw(st.sampled_from(["%06o\0 ", "%06o \0", "%07o\0", " %06o\0"])).encode() % checksum
        )
    return bytes(block)


def outcome(kind: type[tarfile.TarInfo], block: bytes) -> object:
    try:
        member = kind.frombuf(block, "utf-8", "replace")
    except (tarfile.HeaderError, ValueError) as error:
        return type(error), str(error)
    return member.name, member.size, member.type, member.chksum, member.isdir()


@given(block=blocks())
def test_a_block_means_what_tarfile_says(block: bytes) -> None:
    assert outcome(_Member, block) == outcome(tarfile.TarInfo, block)


@given(block=st.binary(max_size=600))
def test_any_bytes_have_the_outcome_of_tarfile(block: bytes) -> None:
    assert outcome(_Member, block) == outcome(tarfile.TarInfo, block)
