"""The finder is not the target, wherever pip has put it."""

from __future__ import annotations

import pytest

from crowdsafe.find.gates import sources


@pytest.mark.parametrize("folder", ["site-packages", "dist-packages", "src"])
def test_the_finder_names_no_line_of_its_own(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    ours = f"/venv/{folder}/crowdsafe/find"
    monkeypatch.setattr(sources, "_OURS", ours)
    file = f"{ours}/gates/psycopg3.py"
    assert sources._kind(file) is sources._Kind.PLUMBING
    assert sources._kind(ours + "ings.py") is not sources._Kind.PLUMBING
