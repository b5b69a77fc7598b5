"""The terminal: all that is needed to understand a race, in 80 columns, with and without colour."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from crowdsafe.find.report import terminal
from tests.find.report import samples


def test_a_race_tells_its_whole_story() -> None:
    text = str(samples.report(samples.racy_stock()))
    for part in (
        "RACE  POST /stock/allocate",
        "× itself",
        "Lost update on stock  severity high",
        "Two operations read the same value",
        "shop/stock.py:41  stock = session.get(Stock, product_id)",
        "overwrites A",
        "A then B",
        "found",
        "What fixes it: Check and change in one statement",
        "store.write(take, Stock.on_hand, quantity, where=Stock.id == id)",
        "crowdsafe replay cs1-eJyrVkrLz1eyUqhW",
        "1 race in 63 s",
    ):
        assert part in text, part


def test_other_verdicts_take_two_lines_each_and_say_why() -> None:
    text = terminal.render(
        samples.report(samples.proven(), samples.not_found(), samples.inconclusive())
    )
    head = text.splitlines()[:6]
    assert head[0] == "PROVEN  POST /stock/take × itself"
    assert head[2].startswith("NOT-FOUND") and "budget of 60 s" in head[3]
    assert head[4].startswith("INCONCLUSIVE") and "exit code 3" in head[5]
    assert "1 proven, 1 not found, 1 inconclusive" in text


@pytest.mark.parametrize("width", [80, 120])
def test_it_fits_and_has_no_colour_when_piped(width: int) -> None:
    text = terminal.render(samples.report(), width=width)
    assert "\x1b" not in text
    long = [line for line in text.splitlines() if len(line) > width]
    assert all("crowdsafe replay" in line for line in long)
    assert all(line == line.rstrip() for line in text.splitlines())


def test_colour_adds_nothing_that_is_not_in_the_words() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, color_system="truecolor")
    terminal.show(samples.report(samples.racy_stock()), console)
    assert "\x1b[" in out.getvalue()
    assert "overwrites A" in out.getvalue()


def test_a_token_is_never_broken_over_lines() -> None:
    finding = samples.racy_stock()
    finding.token = "cs1." + "abcDEF123_-" * 40
    assert f"crowdsafe replay {finding.token}\n" in terminal.render(samples.report(finding))


def test_a_terminal_that_knows_ascii_only_gets_ascii_diagrams() -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace")
    console = Console(file=out, width=80, no_color=True)
    terminal.show(samples.report(samples.racy_stock()), console)
    out.flush()
    text = out.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert "|<------ reads on_hand = 100 -------|" in text


def test_values_of_the_target_cannot_write_to_the_terminal() -> None:
    finding = samples.racy_stock()
    finding.summary = "a\x1b[2Jb [bold]c[/bold] \x9b31m"
    finding.operations = ("POST /\x1b]0;x\x07", "POST /[red]")
    finding.differences = ("x" * 1_000_000, "\x1b[31m")
    text = terminal.render(samples.report(finding))
    assert "\x1b" not in text and "\x9b" not in text and "\x07" not in text
    assert "[bold]c[/bold]" in text, "what looks like markup is text"
    assert len(text) < 20_000


def test_what_was_tried_with_other_isolation_is_a_table() -> None:
    finding = samples.racy_stock()
    finding.matrix = (("serializable", "aborts", "retry it"), ("mended:app", "proven", ""))
    lines = [line.split() for line in terminal.render(samples.report(finding)).splitlines()]
    assert ["serializable", "aborts", "retry", "it"] in lines
    assert ["mended:app", "proven"] in lines


def test_what_many_pairs_have_in_common_is_said_once() -> None:
    races = [samples.racy_stock() for _ in range(3)]
    races[1].operations = ("POST /a", "POST /b")
    races[2].operations = ("POST /a", "POST /c")
    safe = [samples.proven() for _ in range(30)]
    unsure = [samples.inconclusive() for _ in range(2)]
    text = terminal.render(samples.report(*safe, *races, *unsure))
    assert text.count("Lost update on stock  severity high") == 1
    same = text[text.index("The same race") :]
    assert "- POST /a × POST /b\n  - POST /a × POST /c\n" in same
    assert text.count("PROVEN") == 1 and "PROVEN  30 sets of operations" in text
    assert text.count("exit code 3") == 1
    assert text.index("RACE ") < text.index("PROVEN") < text.index("INCONCLUSIVE")
    assert "3 races, 30 proven, 2 inconclusive" in text


def test_a_race_in_other_lines_is_another_race() -> None:
    one, other = samples.racy_stock(), samples.racy_stock()
    other.sources = ("shop/other.py:1",)
    assert str(samples.report(one, other)).count("severity high") == 2
