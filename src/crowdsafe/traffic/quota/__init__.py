"""Quotas: so many units for a key in a period, reserved first, then charged or given back."""

from crowdsafe.traffic.quota.ending import charge, extend, refund
from crowdsafe.traffic.quota.periods import Period, day, hour, month
from crowdsafe.traffic.quota.reserving import Reservation, reserve
from crowdsafe.traffic.quota.state import QuotaState, quota_state
from crowdsafe.traffic.quota.sweeping import expire_reservations, forget_quotas

__all__ = [
    "Period",
    "QuotaState",
    "Reservation",
    "charge",
    "day",
    "expire_reservations",
    "extend",
    "forget_quotas",
    "hour",
    "month",
    "quota_state",
    "refund",
    "reserve",
]
