"""The documentation's code runs, and its links lead somewhere.

Every ```python block of README.md and docs/*.md is executed, top to bottom, one namespace a file,
in an empty folder. A block below a line `<!-- not-run: reason -->` is only parsed. What a document
claims about its code stands in a comment that readers do not see, `<!-- check:` ... `-->`, and runs
with it.
"""

from __future__ import annotations

import ast
import re
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"^<!-- check:\n(?P<check>.*?)^-->$"
    r"|^(?:<!-- not-run: (?P<reason>[^>]+?) -->\n+)?```python\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#+ (?P<text>.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    line: int
    code: str
    reason: str | None


def blocks(path: Path) -> list[Block]:
    text = path.read_text()
    found = []
    for match in BLOCK.finditer(text):
        group = "check" if match["code"] is None else "code"
        line = text.count("\n", 0, match.start(group))
        found.append(Block(line, match[group], match["reason"]))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_python_blocks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType(f"docs_{path.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # annotations are looked up there
    for block in blocks(path):
        # The blank lines in front make a traceback name the line of the document.
        source = "\n" * block.line + block.code
        if block.reason:
            ast.parse(source, str(path))
        else:
            exec(compile(source, str(path), "exec", dont_inherit=True), vars(module))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in (match["target"] for match in LINK.finditer(path.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (path.parent / name).resolve() if name else path
        assert linked.exists(), f"{path.name} links to {target}, which is not there"
        if anchor:
            assert anchor in anchors(linked), f"{path.name} links to {target}: no such heading"


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as code hosts form them."""
    headings = (match["text"].lower() for match in HEADING.finditer(path.read_text()))
    return {re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-") for text in headings}
