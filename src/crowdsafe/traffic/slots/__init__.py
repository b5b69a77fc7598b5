"""Slots: at most so many at a time for one key, given back by themselves when a holder dies."""

from crowdsafe.traffic.slots.database import DatabaseSlots
from crowdsafe.traffic.slots.in_process import InProcessSlots
from crowdsafe.traffic.slots.slot import Slot
from crowdsafe.traffic.slots.valkey import ValkeySlots

__all__ = ["DatabaseSlots", "InProcessSlots", "Slot", "ValkeySlots"]
