"""The sequence diagram in text: lanes for the operations, the table between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from crowdsafe.find.report.scene import Kind, Line, Scene
from crowdsafe.find.report.words import cut, letter

__all__ = ["drawn"]

_MARGIN = 6
_WIDTH_MAX = 100
_WIDTH_MIN = 60


@dataclass(frozen=True, slots=True)
class _Pen:
    lane: str
    dash: str
    left: str
    right: str


_UNICODE = _Pen("│", "─", "◄", "►")
_ASCII = _Pen("|", "-", "<", ">")


def drawn(scene: Scene, width: int = 80, *, unicode: bool = True) -> Iterator[tuple[str, bool]]:
    """The lines of the diagram, and whether each is one that went wrong.

    A is left of the table, the others right of it. Takes 60 to 100 columns.
    """
    pen = _UNICODE if unicode else _ASCII
    lanes = _lanes(scene, max(_WIDTH_MIN, min(width, _WIDTH_MAX)))
    yield _heading(scene, lanes), False
    for line in scene.lines:
        text = _drawn(line, lanes, pen)
        yield (text if unicode else _plain(text)).rstrip(), bool(line.wrong)


@dataclass(frozen=True, slots=True)
class _Lanes:
    operations: tuple[int, ...]
    middle: int
    width: int


def _lanes(scene: Scene, width: int) -> _Lanes:
    number = max(2, len(scene.operations))
    gap = (width - _MARGIN - 2) // number
    places = [_MARGIN, *(_MARGIN + gap * (place + 2) for place in range(number - 1))]
    return _Lanes(tuple(places), _MARGIN + gap, width)


def _heading(scene: Scene, lanes: _Lanes) -> str:
    row = [" "] * lanes.width
    for operation, place in enumerate(lanes.operations[: len(scene.operations)]):
        _put(row, place, letter(operation))
    middle = cut(scene.middle, 28)
    _put(row, lanes.middle - len(middle) // 2, middle)
    return "".join(row).rstrip()


def _drawn(line: Line, lanes: _Lanes, pen: _Pen) -> str:
    row = [" "] * lanes.width
    for place in (*lanes.operations, lanes.middle):
        row[place] = pen.lane
    if line.number:
        _put(row, 0, f"{line.number:>4}")
    lane = lanes.operations[line.operation]
    if line.kind is Kind.FOLDED:
        _put(row, _MARGIN + 2, line.text)
    elif line.kind in {Kind.MARK, Kind.WAITS}:
        _beside(row, lane, lanes, line.text)
    else:
        _arrow(row, lane, lanes.middle, line, pen)
    if line.wrong:
        _put_wrong(row, lane, lanes, f"! {line.wrong}")
    return "".join(row)


def _arrow(row: list[str], lane: int, middle: int, line: Line, pen: _Pen) -> None:
    """Draw from lane to lane, with the words on it and the head where it leads to."""
    first, last = min(lane, middle) + 1, max(lane, middle) - 1
    for place in range(first, last + 1):
        row[place] = pen.dash
    to_lane = line.kind is Kind.READS
    leftwards = (lane < middle) == to_lane
    row[first if leftwards else last] = pen.left if leftwards else pen.right
    words = f" {cut(line.text, last - first - 3)} "
    _put(row, first + (last - first + 1 - len(words)) // 2, words)


def _beside(row: list[str], lane: int, lanes: _Lanes, text: str) -> None:
    """Words on a lane itself: beside it, towards the table."""
    room = abs(lanes.middle - lane) - 3
    words = cut(text, room)
    _put(row, lane + 2 if lane < lanes.middle else lane - 1 - len(words), words)


def _put_wrong(row: list[str], lane: int, lanes: _Lanes, text: str) -> None:
    """What is wrong, on the other side of the table."""
    if lane < lanes.middle:
        _put(row, lanes.middle + 2, cut(text, lanes.operations[1] - lanes.middle - 3))
    else:
        words = cut(text, lanes.middle - _MARGIN - 3)
        _put(row, lanes.middle - 1 - len(words), words)


def _put(row: list[str], place: int, text: str) -> None:
    for offset, sign in enumerate(text):
        if 0 <= place + offset < len(row):
            row[place + offset] = sign


def _plain(text: str) -> str:
    """For a terminal that knows ASCII only; keeps the columns."""
    return text.replace("←", "=").replace("…", "~").encode("ascii", "replace").decode()
