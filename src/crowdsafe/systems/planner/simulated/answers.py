"""What the simulated language model says: real contents for the question that it is asked."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from crowdsafe.systems.planner.generation.build import Built
from crowdsafe.systems.planner.generation.facts import FACTS
from crowdsafe.systems.planner.generation.offline import assume, headline, write
from crowdsafe.systems.planner.request import PlanRequest

__all__ = ["answer_to"]


def answer_to(messages: list[dict[str, Any]]) -> tuple[str, str]:
    """The answer to a chat, and which step of the planner it was (other chats: "other").

    Raises ValueError when a question of the planner's cannot be read.
    """
    task = _task(str(messages[-1].get("content", "")))
    if task is None:
        return json.dumps({"answer": "I only know about business plans."}), "other"
    section, step = task["task"]["section"], task["task"]["step"]
    request = PlanRequest.model_validate(task["request"])
    figures = task["figures"]
    answer: Any
    if step == "headline":
        answer = headline(request)
    elif step == "facts":
        answer = assume(request, section, figures)
    else:
        built = Built(FACTS[section].model_validate(task["facts"]), [], {})
        answer = {"paragraphs": write(request, section, built, figures)}
    text = answer.model_dump_json() if isinstance(answer, BaseModel) else json.dumps(answer)
    return text, f"{section}/{step}"


def _task(content: str) -> dict[str, Any] | None:
    try:
        task = json.loads(content)
    except ValueError:
        return None
    return task if isinstance(task, dict) and "task" in task and "request" in task else None
