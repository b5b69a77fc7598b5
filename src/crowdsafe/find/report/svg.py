"""The sequence diagram as inline SVG, once for a wide page and once for a narrow one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import PurePath

from crowdsafe.find.report.scene import Kind, Line, Scene
from crowdsafe.find.report.words import clean, cut, letter

__all__ = ["described", "svg"]

_HEAD = 46
_WHO_MAX = 3


@dataclass(frozen=True, slots=True)
class _Sheet:
    """Measures in pixels: where the lanes are, and how many letters fit on the arrows."""

    name: str
    width: int
    lanes: tuple[int, ...]
    middle: int
    row: int
    letter_width: float
    narrow: bool

    def across(self, line: Line) -> tuple[int, int]:
        lane = self.lanes[line.operation]
        return min(lane, self.middle), max(lane, self.middle)


def svg(scene: Scene, label: str) -> str:
    """Both drawings; the page's style sheet shows the one that fits."""
    number = max(2, len(scene.operations))
    return "".join(_drawing(scene, sheet, label) for sheet in (_wide(number), _narrow(number)))


def _wide(number: int) -> _Sheet:
    left, right, width = 190, 190, 1000
    gap = (width - left - right) / number
    lanes = (left, *(round(left + gap * (place + 2)) for place in range(number - 1)))
    return _Sheet("wide", width, lanes, round(left + gap), 46, 7.2, narrow=False)


def _narrow(number: int) -> _Sheet:
    gap = 320 / number
    lanes = (12, *(round(12 + gap * (place + 2)) for place in range(number - 1)))
    return _Sheet("narrow", 344, lanes, round(12 + gap), 46, 6.9, narrow=True)


def _drawing(scene: Scene, sheet: _Sheet, label: str) -> str:
    heights = [_height(line, sheet) for line in scene.lines]
    height = _HEAD + sum(heights) + 16
    box, said = f"0 0 {sheet.width} {height}", escape(clean(label))
    parts = [f'<svg class="{sheet.name}" viewBox="{box}" role="img" aria-label="{said}">']
    parts += _lanes(scene, sheet, height)
    y = _HEAD
    for line, each in zip(scene.lines, heights, strict=True):
        parts += _drawn(line, sheet, y, each)
        y += each
    parts.append("</svg>")
    return "".join(parts)


def _height(line: Line, sheet: _Sheet) -> int:
    if line.kind is Kind.FOLDED:
        return 34
    if line.kind in {Kind.MARK, Kind.WAITS} and not line.wrong:
        return 32
    return sheet.row + (16 if sheet.narrow and line.wrong else 0)


def _lanes(scene: Scene, sheet: _Sheet, height: int) -> Iterator[str]:
    for place in (*sheet.lanes, sheet.middle):
        yield f'<line class="lane" x1="{place}" x2="{place}" y1="34" y2="{height - 8}"/>'
    for operation, place in enumerate(sheet.lanes[: len(scene.operations)]):
        yield _text(place, 22, letter(operation), f"name {_who(operation)}", _anchor(place, sheet))
    room = int((sheet.lanes[1] - sheet.lanes[0]) / sheet.letter_width) - 8
    yield _text(sheet.middle, 22, cut(scene.middle, room), "", "middle")


def _anchor(place: int, sheet: _Sheet) -> str:
    """Words at the edge of a narrow sheet must not leave it."""
    if not sheet.narrow:
        return "middle"
    return "start" if place < 40 else "end" if place > sheet.width - 40 else "middle"


def _drawn(line: Line, sheet: _Sheet, top: int, height: int) -> Iterator[str]:
    y = top + (27 if height > 34 else 21)
    match line.kind:
        case Kind.FOLDED:
            words = cut(line.text, int(sheet.width / sheet.letter_width) - 2)
            yield _text(sheet.width // 2, y, words, "muted", "middle")
            return
        case Kind.MARK | Kind.WAITS:
            yield from _mark(line, sheet, y)
        case _:
            yield from _arrow(line, sheet, y)
    if not sheet.narrow:
        yield from _margin(line, sheet, y)
    if line.wrong:
        yield from _wrong(line, sheet, y)


def _mark(line: Line, sheet: _Sheet, y: int) -> Iterator[str]:
    lane = sheet.lanes[line.operation]
    left = lane < sheet.middle
    if line.kind is Kind.MARK:
        yield (
            f'<line class="tick {_who(line.operation)}" x1="{lane - 7}" x2="{lane + 7}" '
            f'y1="{y - 4}" y2="{y - 4}"/>'
        )
    style = "muted" if line.kind is Kind.WAITS else "place"
    room = int(abs(sheet.middle - lane) / sheet.letter_width)
    words = cut(line.text, max(room, 18))
    yield _text(lane + 14 if left else lane - 14, y, words, style, "start" if left else "end")


def _arrow(line: Line, sheet: _Sheet, y: int) -> Iterator[str]:
    first, last = sheet.across(line)
    lane, who = sheet.lanes[line.operation], _who(line.operation)
    leftwards = (lane < sheet.middle) == (line.kind is Kind.READS)
    begin, end = first + 6, last - 6
    yield f'<line class="arrow {who}" x1="{begin}" x2="{end}" y1="{y}" y2="{y}"/>'
    tip, back = (begin - 1, begin + 9) if leftwards else (end + 1, end - 9)
    yield f'<polygon class="tip {who}" points="{tip},{y} {back},{y - 5} {back},{y + 5}"/>'
    if sheet.narrow:
        left = lane < sheet.middle
        words = cut(line.text, int((sheet.width - 30) / sheet.letter_width))
        x, anchor = (lane + 8, "start") if left else (last - 8, "end")
    else:
        words = cut(line.text, int((last - first - 20) / sheet.letter_width))
        x, anchor = (first + last) // 2, "middle"
    yield _text(x, y - 8, words, "", anchor)


def _margin(line: Line, sheet: _Sheet, y: int) -> Iterator[str]:
    """The number of the step, and the line of the program beside its lane."""
    if line.number:
        yield _text(8, y, str(line.number), "place", "start")
    if line.source is None:
        return
    where = f"{PurePath(line.source.file).name}:{line.source.line}"
    if line.operation == 0:
        yield _text(sheet.lanes[0] - 16, y, _tail(where, 18), "place", "end")
    else:
        yield _text(max(sheet.lanes) + 16, y, _tail(where, 23), "place", "start")


def _wrong(line: Line, sheet: _Sheet, y: int) -> Iterator[str]:
    """A frame round the arrow, and on the other side of the table what is wrong with it."""
    first, last = sheet.across(line)
    box = (first - 5, last + 5)
    if sheet.narrow:
        left = sheet.lanes[line.operation] < sheet.middle
        x, anchor = (first + 8, "start") if left else (last - 8, "end")
        words = cut(line.wrong, int((sheet.width - 30) / sheet.letter_width))
        yield _text(x, y + 18, words, "wrong", anchor)
        return
    yield (
        f'<rect class="frame" x="{box[0]}" y="{y - 24}" width="{box[1] - box[0]}" height="36" '
        'rx="8"/>'
    )
    if sheet.lanes[line.operation] < sheet.middle:
        room = int((max(sheet.lanes) - sheet.middle) / sheet.letter_width) - 2
        yield _text(box[1] + 8, y, cut(line.wrong, room), "wrong", "start")
    else:
        room = int((sheet.middle - sheet.lanes[0]) / sheet.letter_width) - 2
        yield _text(box[0] - 8, y, cut(line.wrong, room), "wrong", "end")


def _text(x: int, y: int, words: str, style: str, anchor: str) -> str:
    said = f' class="{style}"' if style else ""
    return f'<text{said} x="{x}" y="{y}" text-anchor="{anchor}">{escape(clean(words))}</text>'


def _tail(where: str, length: int) -> str:
    return where if len(where) <= length else "…" + where[1 - length :]


def _who(operation: int) -> str:
    return f"who-{operation % _WHO_MAX}"


def described(lines: Sequence[Line]) -> str:
    """The diagram in words, for who cannot see it."""
    said = []
    for line in lines:
        wrong = f" ({line.wrong})" if line.wrong else ""
        said.append(f"{line.number or ''} {letter(line.operation)} {line.text}{wrong}.".strip())
    return " ".join(said)
