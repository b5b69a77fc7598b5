"""Tokens that are drawn anew in each run are taken for drawn, whatever they look like."""

from __future__ import annotations

import random
import string

import pytest

from crowdsafe.find.judge.moments import is_drawn, is_opaque

LETTERS = {
    "letters and digits": string.ascii_letters + string.digits,
    "hexadecimal": "0123456789abcdef",
    "lower case": string.ascii_lowercase,
    "url-safe": string.ascii_letters + string.digits + "_-",
}


@pytest.mark.parametrize("length", [20, 30, 64])
@pytest.mark.parametrize("letters", LETTERS)
def test_a_text_that_differs_from_run_to_run_is_drawn(
    letters: str, length: int, rng: random.Random
) -> None:
    drawn = ["".join(rng.choices(LETTERS[letters], k=length)) for _ in range(2000)]
    assert [text for text in drawn if not is_drawn(text)] == []


def test_by_its_look_alone_a_drawn_text_is_not_always_told(rng: random.Random) -> None:
    drawn = ["".join(rng.choices(LETTERS["letters and digits"], k=30)) for _ in range(2000)]
    assert any(not is_opaque(text) for text in drawn)


@pytest.mark.parametrize("text", ["sold out", "ORD-0017", "1234567890123456", "aaaaaaaaaaaaaaaa"])
def test_words_and_numbers_are_not_drawn(text: str) -> None:
    assert not is_drawn(text)
