"""Versions as entity tags."""

from __future__ import annotations

import pytest

from crowdsafe.errors import PreconditionRequired
from crowdsafe.web.etag import etag_of, if_match_version, none_matches
from crowdsafe.web.problem import InvalidETag


@pytest.mark.parametrize("version", [0, 1, 7, 10**17])
def test_what_goes_out_comes_back(version: int) -> None:
    assert if_match_version(etag_of(version)) == version


def test_spaces_around_and_star() -> None:
    assert if_match_version(' "7" ') == 7
    assert if_match_version("*") is None


@pytest.mark.parametrize(
    ("header", "fix"),
    [
        ("7", "double quotes"),
        ('"7', "double quotes"),
        ('7"', "double quotes"),
        ('"', "double quotes"),
        ("", "double quotes"),
        ("'7'", "double quotes"),
        ('W/"7"', "strong tag"),
        ('"seven"', "version number"),
        ('""', "version number"),
        ('"-1"', "version number"),
        ('"07"', "version number"),
        ('"7.0"', "version number"),
        ('"\u0667"', "version number"),
        ('"' + "9" * 40 + '"', "version number"),
        ('"7", "8"', "one tag"),
    ],
)
def test_a_broken_one_is_refused_and_the_fix_is_named(header: str, fix: str) -> None:
    with pytest.raises(InvalidETag, match=fix):
        if_match_version(header)


def test_a_missing_one() -> None:
    assert if_match_version(None, required=False) is None
    with pytest.raises(PreconditionRequired):
        if_match_version(None)


def test_none_match_compares_weakly() -> None:
    assert none_matches(None, 7)
    assert none_matches('"6"', 7)
    assert none_matches("7", 7)
    assert none_matches('"7",' * 1000, 7)
    assert not none_matches('"7"', 7)
    assert not none_matches('"6", W/"7"', 7)
    assert not none_matches("*", 7)
