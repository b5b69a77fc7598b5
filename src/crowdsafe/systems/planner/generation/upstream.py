"""The language model's service: any endpoint that speaks OpenAI's chat completions."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Upstream"]


@dataclass(slots=True)
class Upstream:
    """A language model's service; ``timeout_s`` is for one whole answer."""

    base_url: str
    api_key: str
    model: str
    timeout_s: float = 60.0

    async def close(self) -> None:
        """Close its connections."""
