"""What a scenario file says, and what is said of one that does not say enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crowdsafe.errors import ConfigError
from crowdsafe.find import request, worker


def test_a_request_that_follows_takes_values_of_those_before() -> None:
    made = request("GET /cart", 'PUT /cart If-Match:{{headers.etag}} {"id": {{1.body.id}}}')
    assert [one.method for one in made.requests] == ["GET", "PUT"]
    assert made.requests == request(made.text).requests


def test_a_value_of_a_request_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="no earlier answer"):
        request("GET /cart", "POST /orders/{{3.body.id}}", "GET /orders")


def test_a_database_that_only_running_the_file_would_tell_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "scenario.py"
    file.write_text("import os\nscenario = Scenario(database=os.environ['DATABASE_URL'])\n")
    job: dict[str, Any] = {"target": str(file), "operations": [], "database": None, "headers": []}
    with pytest.raises(ConfigError, match="as plain text in the scenario"):
        worker._job(job)
