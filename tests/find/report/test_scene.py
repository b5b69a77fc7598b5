"""The diagram shows what the race is about, says what is wrong, and folds the rest."""

from __future__ import annotations

import pytest

from crowdsafe.find.report.diagram import drawn
from crowdsafe.find.report.scene import Scene, scene_of
from tests.find.report import samples


def scene(finding: samples.Finding) -> Scene:
    found = scene_of(finding)
    assert found is not None
    return found


def said(found: Scene) -> list[tuple[int, str, str]]:
    return [(line.number, "ABC"[line.operation] + " " + line.text, line.wrong)
            for line in found.lines]  # fmt: skip


def test_racy_stock() -> None:
    found = scene(samples.racy_stock())
    assert found.middle == "stock #1"
    assert said(found) == [
        (1, "A reads on_hand = 100", ""),
        (2, "B reads on_hand = 100", "before A's write"),
        (3, "A writes on_hand ← 20", ""),
        (4, "A COMMIT", ""),
        (5, "B writes on_hand ← 20", "overwrites A"),
        (6, "B COMMIT", ""),
    ]


def test_a_read_of_two_tables_is_drawn_from_the_one_that_the_race_is_on() -> None:
    finding = samples.racy_stock()
    assert finding.run is not None
    for step in finding.run.steps[:2]:
        step.sql = "SELECT stock.id, on_hand FROM aisle JOIN stock ON aisle.id = stock.aisle_id"
    assert said(scene(finding))[0] == (1, "A reads stock.on_hand = 100", "")


def test_a_wait_is_drawn_before_the_commit_that_ends_it() -> None:
    texts = [text for _, text, _ in said(scene(samples.double_transition()))]
    wait = texts.index("B waits for A's lock")
    assert texts[wait + 1] == "A COMMIT"
    assert texts[wait + 2].startswith("B writes leave.state")


def test_a_second_insert_is_marked() -> None:
    found = said(scene(samples.duplicate_create()))
    assert found[1][1:] == ("B reads: no row", "before A's insert")
    assert found[3][1:] == ("B inserts email 'mara@example.test'", "second insert")


def test_what_fails_says_why() -> None:
    wrong = [line.wrong for line in scene(samples.aborts()).lines if line.wrong]
    assert wrong == ["fails: OperationalError: database is locked"]


def test_of_120_statements_those_on_other_tables_are_folded() -> None:
    found = scene(samples.long_one())
    assert [line.number for line in found.lines if line.number] == [59, 118, 177, 178, 237, 238]
    assert found.lines[0].text == "… 58 statements of A on other tables"


def test_a_long_race_on_one_table_is_folded_far_from_what_is_wrong() -> None:
    finding = samples.racy_stock()
    assert finding.run is not None
    reads = [samples.step(0, "SELECT on_hand FROM stock WHERE id = ?", (2,)) for _ in range(200)]
    finding.run.steps[3:3] = reads
    found = scene(finding)
    assert len(found.lines) < 60
    assert sum(bool(line.wrong) for line in found.lines) == 2
    assert any("statements of A" in line.text for line in found.lines)


@pytest.mark.parametrize("width", [60, 80, 100])
@pytest.mark.parametrize("unicode", [True, False], ids=["unicode", "ascii"])
def test_the_text_fits_its_columns(width: int, unicode: bool) -> None:
    for finding in samples.all_findings():
        found = scene_of(finding)
        if found is None:
            continue
        for text, _ in drawn(found, width, unicode=unicode):
            assert len(text) <= width
            assert unicode or text.isascii()


def test_the_drawing_of_racy_stock() -> None:
    lines = [text for text, _ in drawn(scene(samples.racy_stock()), 80)]
    assert lines == [
        "      A                               stock #1                                B",
        "   1  │◄────── reads on_hand = 100 ───────│                                   │",
        "   2  │                ! before A's write │─────── reads on_hand = 100 ──────►│",
        "   3  │─────── writes on_hand ← 20 ──────►│                                   │",
        "   4  │ COMMIT                            │                                   │",
        "   5  │                    ! overwrites A │◄────── writes on_hand ← 20 ───────│",
        "   6  │                                   │                            COMMIT │",
    ]


def test_three_lanes() -> None:
    found = scene(samples.three_at_once())
    assert len(found.operations) == 3
    lines = [text for text, _ in drawn(found, 80)]
    assert lines[0].split() == ["A", "stock", "#1", "B", "C"]
    assert lines[8].count("◄") == 1 and lines[8].rstrip().endswith("│")


def test_without_a_run_there_is_no_diagram() -> None:
    assert scene_of(samples.proven()) is None
