"""A language model's service for tests, benchmarks and the demo: slow and failing as told.

It speaks as much of OpenAI's chat completions as the official client needs, and answers the
planner's questions with real section contents. `simulated_upstream` runs it in this process;
`serve_simulated` is a program of its own: ``python -m crowdsafe.systems.planner.simulated``.
"""

from __future__ import annotations

from crowdsafe.systems.planner.simulated.app import SimulatedUpstream
from crowdsafe.systems.planner.simulated.behaviour import Behaviour
from crowdsafe.systems.planner.simulated.serving import (
    Serving,
    serve_simulated,
    simulated_upstream,
)

__all__ = [
    "Behaviour",
    "Serving",
    "SimulatedUpstream",
    "serve_simulated",
    "simulated_upstream",
]
