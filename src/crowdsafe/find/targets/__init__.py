"""Apps and functions of the target, and the requests that make up an operation.

``load()`` finds the target (import happens there), ``target.prepare(scenario.specs())`` logs in and
gives the operations; ``request()``, ``call()`` and ``Scenario`` are what users write.
"""

from crowdsafe.find.targets.functions import Call, call
from crowdsafe.find.targets.hints import sent_away, told
from crowdsafe.find.targets.load import load, load_function, source_file
from crowdsafe.find.targets.request import Request, Requests, parse, request
from crowdsafe.find.targets.routes import routes_of
from crowdsafe.find.targets.scenario import (
    Scenario,
    Spec,
    database_named_in,
    name_apart,
    spec_of,
)
from crowdsafe.find.targets.target import Target

__all__ = [
    "Call",
    "Request",
    "Requests",
    "Scenario",
    "Spec",
    "Target",
    "call",
    "database_named_in",
    "load",
    "load_function",
    "name_apart",
    "parse",
    "request",
    "routes_of",
    "sent_away",
    "source_file",
    "spec_of",
    "told",
]
