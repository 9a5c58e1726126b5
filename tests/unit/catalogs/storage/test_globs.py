"""Braces and globs over URLs."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_select.errors import InputError
from catalogs.storage import globs


@pytest.mark.parametrize(
    ("pattern", "expanded"),
    [
        ("s3://b/a-{008..011}.tar", ["008", "009", "010", "011"]),
        ("s3://b/a-{8..11}.tar", ["8", "9", "10", "11"]),
        ("s3://b/a-{x,yy,}.tar", ["x", "yy", ""]),
        ("s3://b/a-{x}.tar", ["{x}"]),
        ("s3://b/a-{}.tar", ["{}"]),
        ("s3://b/a-{3..1}.tar", ["3", "2", "1"]),
    ],
)
def test_braces_expand_as_in_a_shell(pattern: str, expanded: list[str]) -> None:
    urls = globs.expand_braces(pattern)
    assert urls == [f"s3://b/a-{text}.tar" for text in expanded]


def test_several_braces_make_every_combination() -> None:
    assert globs.expand_braces("{a,b}/{0..1}") == ["a/0", "a/1", "b/0", "b/1"]


@given(st.text(st.characters(exclude_characters="{}")))
def test_text_without_braces_is_unchanged(text: str) -> None:
    assert globs.expand_braces(text) == [text]


@pytest.mark.parametrize(
    ("glob", "url", "matching"),
    [
        ("/d/*.tar", "/d/a.tar", True),
        ("/d/*.tar", "/d/e/a.tar", False),
        ("/d/*/a.tar", "/d/e/a.tar", True),
        ("s3://b/d/a-?[0-3].tar", "s3://b/d/a-x3.tar", True),
        ("s3://b/d/a-?[0-3].tar", "s3://b/d/a-x4.tar", False),
        ("/d/*.tar", "/d/a.tar.gz", False),
    ],
)
def test_a_star_stays_within_one_folder(glob: str, url: str, *, matching: bool) -> None:
    assert globs.is_glob(glob)
    assert globs.matcher(glob)(url) is matching


def test_a_web_address_has_a_query_and_no_wildcards() -> None:
    url = "https://h/d/a.tar?x[]=1"
    assert not globs.is_glob(url)
    assert globs.matcher(url)(url)
    assert globs.folder_to_list(url, several=True) == url
    globs.check(url)


@pytest.mark.parametrize("pattern", ["/d/**/*.tar", "s3://b/**", "/d/a**b", "http://h/*.tar"])
def test_an_unsupported_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(InputError, match=re.escape(pattern)):
        globs.check(pattern)


def test_a_folder_matches_its_files_at_any_depth_except_hidden_ones() -> None:
    matches = globs.matcher("/_d/.e")
    assert matches("/_d/.e/x.parquet")
    assert matches("/_d/.e/f/x.parquet")
    assert not matches("/_d/.e/_temporary/0/x.parquet")
    assert not matches("/_d/.e/.x.crc")
    assert not matches("/_d/.ef/x.parquet")


def test_a_hidden_object_matches_its_own_url() -> None:
    assert globs.matcher("/d/_x.tar")("/d/_x.tar")


def test_listing_starts_at_the_folder_before_the_first_wildcard() -> None:
    def listed(url: str) -> str:
        return globs.folder_to_list(url, several=False)

    assert listed("s3://b/d/e-*/f/*.tar") == "s3://b/d"
    assert listed("s3://b/*.tar") == "s3://b"
    assert listed("/*.tar") == "/"
    assert listed("s3://b/d") == "s3://b/d"


def test_a_numbered_series_is_found_with_one_listing() -> None:
    urls = globs.expand_braces("s3://b/d/{0000..9999}.tar")
    assert {globs.folder_to_list(url, several=True) for url in urls} == {"s3://b/d"}


@pytest.mark.parametrize(
    "pattern", ["a{1..999999999}", "a{1..99999999999999999999999}", "{1..2000}{1..2000}"]
)
def test_braces_that_stand_for_millions_of_urls_are_refused(pattern: str) -> None:
    with pytest.raises(InputError, match=r"stands for more than 1,000,000 URLs"):
        globs.expand_braces(pattern)
