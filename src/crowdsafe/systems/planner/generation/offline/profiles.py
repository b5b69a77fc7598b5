"""Rules of thumb for kinds of business: what the offline generator reckons with.

They are planning assumptions, stated as such in each plan; they describe no real company. Prices
are in units of about a dollar (a currency's ``scale`` turns them into its own).
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["PROFILES", "Profile", "profile_of"]


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of business.

    ``price`` is what a customer pays in a month (lowest, highest), ``variable_percent`` what the
    sales themselves cost, ``fixed_permille`` the fixed costs a month as a part of the budget,
    ``reach`` how many tenths of the fixed costs the last month's gross profit comes to (from, to).
    """

    name: str
    words: tuple[str, ...]
    customer: str
    buyers: str
    price: tuple[int, int]
    variable_percent: int
    fixed_permille: int
    reach: tuple[int, int]
    start_up: tuple[tuple[str, int], ...]
    marketing_percent: int
    monthly: tuple[tuple[str, int], ...]
    where: str
    rival: str
    danger: str
    cure: str
    online: bool = False


_FOOD = Profile(
    "food",
    ("bakery", "cafe", "coffee", "restaurant", "catering", "food", "bar", "brewery", "kitchen",
     "deli", "pizzeria", "tea", "snack"),
    "regular guests", "people who live or work within easy reach and eat out or buy prepared food",
    (24, 48), 34, 62, (14, 26),
    (("Kitchen and fittings", 34), ("Deposits and permits", 10), ("First stock", 6)), 8,
    (("Wages", 45), ("Rent", 28), ("Energy and water", 12), ("Insurance and fees", 8),
     ("Marketing", 7)),
    "on a street that people already walk", "the place next door that people go to out of habit",
    "Food cost rises faster than prices can",
    "Reckon each dish anew every month, and change the menu when it costs too much",
)  # fmt: skip
_SHOP = Profile(
    "shop",
    ("shop", "store", "retail", "boutique", "florist", "bookshop", "bookstore", "market",
     "pharmacy", "grocery"),
    "returning customers", "households within easy reach that buy this kind of goods",
    (30, 65), 55, 48, (14, 24),
    (("Fittings and signs", 20), ("First stock", 28), ("Deposits and permits", 8)), 9,
    (("Wages", 42), ("Rent", 33), ("Energy", 7), ("Insurance and fees", 9), ("Marketing", 9)),
    "where its customers already do their errands", "chains with a larger range",
    "Stock that does not sell ties up the cash",
    "Order small and often, and clear what has not sold in eight weeks",
)  # fmt: skip
_ONLINE_SHOP = Profile(
    "online shop",
    ("ecommerce", "e-commerce", "online shop", "online store", "webshop", "dropshipping",
     "marketplace", "subscription box"),
    "active customers", "people in the delivery area who buy this kind of goods online",
    (22, 58), 58, 42, (15, 28),
    (("Shop software and photos", 12), ("First stock", 34), ("Packing and storage", 8)), 16,
    (("Wages", 36), ("Advertising", 30), ("Software and payments", 14), ("Storage", 12),
     ("Insurance and fees", 8)),
    "online, with deliveries from a small store room", "marketplaces that sort by price",
    "Advertising costs more for each order than planned",
    "Set what an order may cost in advertising, and stop what is above it", True,
)  # fmt: skip
_SOFTWARE = Profile(
    "software",
    ("software", "saas", "app", "platform", "apps", "tech", "technology", "ai", "web",
     "mobile", "game", "games", "startup", "it"),
    "paying accounts", "organisations and people with this problem who can pay online",
    (15, 60), 18, 65, (15, 34),
    (("Building the first version", 38), ("Design and tests with users", 8),
     ("Legal and accounts", 4)), 14,
    (("Wages", 62), ("Hosting and tools", 14), ("Advertising", 14), ("Insurance and fees", 10)),
    "online, sold without a salesperson", "the spreadsheet that people use today",
    "Customers try it and leave within three months",
    "Ask each one who leaves for the reason, and mend that before building more", True,
)  # fmt: skip
_ADVICE = Profile(
    "advice",
    ("consulting", "consultancy", "agency", "freelance", "coaching", "legal", "accounting",
     "bookkeeping", "marketing", "design", "photography", "translation", "advice", "studio"),
    "clients", "organisations and people who buy this work from outside",
    (350, 1100), 22, 58, (13, 26),
    (("Equipment and software", 20), ("Legal, insurance, accounts", 10), ("Office", 8)), 12,
    (("Wages", 58), ("Office", 14), ("Software", 9), ("Insurance and fees", 10),
     ("Marketing", 9)),
    "at the clients' and from a small office", "freelancers who charge less",
    "Most of the income hangs on two clients",
    "No client above a third of the income; talk to two new ones each week",
)  # fmt: skip
_TRADE = Profile(
    "trade",
    ("cleaning", "repair", "construction", "plumbing", "electrical", "gardening", "landscaping",
     "moving", "delivery", "logistics", "transport", "painting", "roofing", "laundry", "security",
     "handyman"),
    "customers", "households and firms in the area that order this work",
    (90, 320), 46, 55, (13, 24),
    (("Tools and machines", 26), ("Vehicle", 24), ("Licences and insurance", 7)), 7,
    (("Wages", 50), ("Vehicle and fuel", 20), ("Yard and storage", 12),
     ("Insurance and fees", 11), ("Marketing", 7)),
    "at the customers' own places", "established firms with a full order book",
    "A vehicle or a key person is out for weeks",
    "Agree now on a hired vehicle and a second pair of hands",
)  # fmt: skip
_LEARNING = Profile(
    "learning",
    ("education", "school", "tutoring", "training", "course", "courses", "teaching", "language",
     "kindergarten", "childcare", "nursery", "learning"),
    "enrolled learners", "people in the area, or their parents, who pay for lessons",
    (70, 210), 30, 55, (13, 24),
    (("Rooms and furniture", 24), ("Teaching material", 14), ("Permits and legal", 7)), 10,
    (("Wages", 56), ("Rent", 22), ("Material and software", 8), ("Insurance and fees", 7),
     ("Marketing", 7)),
    "in rooms near its learners, and partly online", "free lessons on the internet",
    "Learners pause in the holidays and income stops",
    "Sell terms, not lessons, and plan the holidays as months without income",
)  # fmt: skip
_WELLNESS = Profile(
    "wellness",
    ("fitness", "gym", "yoga", "salon", "beauty", "spa", "massage", "hairdresser", "barber",
     "health", "clinic", "wellness", "physiotherapy", "dental"),
    "members and regulars", "adults within easy reach who pay for this regularly",
    (35, 95), 24, 56, (13, 25),
    (("Equipment", 30), ("Fitting out the rooms", 20), ("Permits and deposits", 8)), 9,
    (("Wages", 46), ("Rent", 30), ("Energy and laundry", 9), ("Insurance and fees", 8),
     ("Marketing", 7)),
    "a few minutes from where its members live", "low-price chains",
    "Members sign up in January and leave by summer",
    "Sell years at a better price, and write to those who stay away two weeks",
)  # fmt: skip
_MAKING = Profile(
    "making",
    ("manufacturing", "craft", "crafts", "furniture", "clothing", "fashion", "jewelry",
     "jewellery", "printing", "workshop", "maker", "factory", "farm", "farming", "agriculture",
     "ceramics", "soap"),
    "regular buyers", "shops and households that buy goods of this kind",
    (60, 190), 48, 50, (14, 25),
    (("Machines and tools", 34), ("Material", 14), ("Rooms and permits", 9)), 7,
    (("Wages", 50), ("Rent", 20), ("Energy", 12), ("Insurance and fees", 10),
     ("Marketing", 8)),
    "in a workshop, sold directly and through shops", "imported goods at half the price",
    "One supplier fails and production stops",
    "Two suppliers for each material, and material for a month on the shelf",
)  # fmt: skip
_GENERAL = Profile(
    "general",
    (),
    "paying customers", "people and firms in reach who have the need that this serves",
    (40, 140), 38, 52, (13, 26),
    (("Equipment", 26), ("Rooms and deposits", 14), ("Legal, permits, insurance", 8)), 10,
    (("Wages", 52), ("Rent", 20), ("Tools and software", 10), ("Insurance and fees", 9),
     ("Marketing", 9)),
    "close to its first customers", "doing it oneself, as people do today",
    "Demand grows slower than planned",
    "Keep fixed costs low until demand is seen; decide on the cautious scenario",
)  # fmt: skip

PROFILES: tuple[Profile, ...] = (
    _ONLINE_SHOP, _FOOD, _SHOP, _WELLNESS, _LEARNING, _TRADE, _MAKING, _ADVICE, _SOFTWARE, _GENERAL,
)  # fmt: skip


@lru_cache(maxsize=1024)
def profile_of(business_type: str, idea: str) -> Profile:
    """The profile whose words the business type holds; else the idea; else the general one.

    Of several, the one with the most words found, then the first in `PROFILES`.
    """
    for text in (business_type, idea):
        plain = _plain(text)
        best = max(PROFILES, key=lambda profile: _found(profile, plain))
        if _found(best, plain):
            return best
    return _GENERAL


def _found(profile: Profile, text: str) -> int:
    return sum(re.search(rf"\b{re.escape(word)}\b", text) is not None for word in profile.words)


def _plain(text: str) -> str:
    """Lower case without accents: café is cafe."""
    apart = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in apart if not unicodedata.combining(c))
