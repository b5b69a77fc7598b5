"""A plan and its seven sections: paragraphs, tables and figures, as plain JSON.

Units: every amount of money is an integer in whole units of the plan's currency, a percentage is
an integer, a month is counted from 1 (0: before the start).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from crowdsafe.systems.planner.money import CurrencyCode

__all__ = [
    "SECTIONS",
    "TITLES",
    "Column",
    "Plan",
    "SavedSections",
    "Section",
    "SectionName",
    "Source",
    "Table",
]

SectionName = Literal[
    "executive_summary", "market", "competitors", "financials", "risks", "marketing", "roadmap"
]
Source = Literal["upstream", "offline", "mixed"]
ColumnKind = Literal["text", "money", "count", "percent", "month"]
Cell = str | int | None

TITLES: dict[SectionName, str] = {
    "executive_summary": "Executive summary",
    "market": "Market",
    "competitors": "Competitors",
    "financials": "Financial projections",
    "risks": "Risks",
    "marketing": "Marketing",
    "roadmap": "Roadmap",
}
SECTIONS: tuple[SectionName, ...] = tuple(TITLES)
"""The sections in the order in which a plan shows them."""


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Column(_Data):
    """A column: its label, and how its cells are read (see the units above)."""

    label: str
    kind: ColumnKind = "text"


class Table(_Data):
    """A table; each row has a cell for each column, None where there is nothing to say.

    With ``total`` the last row is the sum of the others in its columns of numbers.
    """

    name: str
    title: str
    columns: list[Column]
    rows: list[list[Cell]]
    total: bool = False


class Section(_Data):
    """One section. ``figures`` are its main numbers by name, which other sections quote.

    ``source`` says who wrote it: the language model, the offline generator, or each a part.
    """

    name: SectionName
    title: str
    paragraphs: list[str]
    tables: list[Table] = []
    figures: dict[str, int | None] = {}
    source: Source

    def table(self, name: str) -> Table:
        """The table with this name; KeyError when there is none."""
        for table in self.tables:
            if table.name == name:
                return table
        raise KeyError(name)


class Plan(_Data):
    """A finished plan. ``calls`` counts the upstream's answers that it cost, failed ones too."""

    title: str
    pitch: str
    currency: CurrencyCode
    sections: dict[SectionName, Section]
    source: Source
    model: str | None
    calls: Annotated[int, Field(ge=0)]

    @property
    def offline_sections(self) -> list[SectionName]:
        """The sections that the language model did not write, or not all of."""
        return [name for name, section in self.sections.items() if section.source != "upstream"]

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON data."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, data: Any) -> Plan:
        """What `to_json` gave; ValueError (pydantic's) when it is not a plan."""
        return cls.model_validate(data)


class SavedSections(Protocol):
    """Finished sections of one job, kept where a crash does not reach them.

    A second run of the job asks for each first, and so does not pay for it again. The data are
    opaque JSON, at most 64 KiB each; ``section`` is a name of `SECTIONS`, or such a name and a
    part ("financials/facts"), at most 40 characters. Of two puts the later one counts.
    """

    async def get(self, section: str) -> dict[str, Any] | None:
        """What was put for this section, or None."""

    async def put(self, section: str, data: dict[str, Any]) -> None:
        """Keep the section; it is on disk when this returns."""
