"""Parts that write rightly when others write too; each states what it holds and what it does not.

Each works on any synchronous SQLAlchemy ``Session``, and under ``store.write``.
"""

from crowdsafe.writes.counters import Ledger
from crowdsafe.writes.edit import Edited, edit
from crowdsafe.writes.get_or_create import get_or_create
from crowdsafe.writes.merge import Merge, merge
from crowdsafe.writes.mutate import mutate
from crowdsafe.writes.numbers import next_number, number_block
from crowdsafe.writes.once import Once, forget_once, once
from crowdsafe.writes.take import Taken, give, take
from crowdsafe.writes.transition import Log, Moved, StateMachine, transition

__all__ = [
    "Edited",
    "Ledger",
    "Log",
    "Merge",
    "Moved",
    "Once",
    "StateMachine",
    "Taken",
    "edit",
    "forget_once",
    "get_or_create",
    "give",
    "merge",
    "mutate",
    "next_number",
    "number_block",
    "once",
    "take",
    "transition",
]
