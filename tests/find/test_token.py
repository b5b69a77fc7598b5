"""A token keeps what it was made of, and says so when it is not whole."""

from __future__ import annotations

import pytest

from crowdsafe.errors import ConfigError
from crowdsafe.find.token import Token, decode, encode

TOKEN = Token(
    target="shop.main:app",
    database="sqlite:///dev.db",
    operations=('POST /stock {"n": 80}', "POST /ördér"),
    schedule=((0, 2), (1, 5), (0, 3)),
    setup="shop.seed:fill",
    login='POST /login {"name": "a"}',
    headers=("Host: shop.example",),
    scenario=True,
    isolation="serializable",
)


@pytest.mark.parametrize(
    "token", [TOKEN, Token("m:a", "sqlite:///x", ("GET /",), ())], ids=["all", "least"]
)
def test_comes_back_as_it_was(token: Token) -> None:
    text = encode(token)
    assert decode(text) == token
    assert decode(f" {text[:20]}\n{text[20:]} ") == token


def test_is_one_word() -> None:
    text = encode(TOKEN)
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://joe:hidden@db:5432/shop", "postgresql://joe@db:5432/shop"),
        ("postgresql://joe:hidden@/shop?host=/run/pg", "postgresql://joe@/shop?host=/run/pg"),
        ("postgresql://db/shop?user=joe&password=hidden", "postgresql://db/shop?user=joe"),
        ("sqlite:////tmp/dev.db", "sqlite:////tmp/dev.db"),
    ],
    ids=["plain", "socket", "query", "sqlite"],
)
def test_holds_no_database_password(url: str, shown: str) -> None:
    assert decode(encode(Token("m:a", url, ("GET /",), ()))).database == shown


@pytest.mark.parametrize("text", ["", "cs1.", "cs0.abc", "hello", "cs1.!!", "cs1.eJx"])
def test_a_bad_one_is_refused_in_words(text: str) -> None:
    with pytest.raises(ConfigError, match="token"):
        decode(text)


def test_a_cut_or_changed_one_is_refused() -> None:
    text = encode(TOKEN)
    for cut in (text[:-8], text[:40] + "AAAA" + text[44:]):
        with pytest.raises(ConfigError, match="cut or changed"):
            decode(cut)
