"""The world of the simulated dialogues: five domains, a service each, their intents, slots and values.

The paper's dialogue set is private; its five domains are life services, transport, health care, social entertainment and finance.
Each service has an intent that only looks something up and a transactional one that books, buys or pays. A value has one canonical
spelling, which services take, and a surface that users often say instead ("next_tuesday": `date=tue`). Words belong to one value of
one slot.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Intent:
    """Something a service does.

    Attributes:
        required: slots it needs, in the order in which they are called.
        transactional: it changes the world, so it must not happen unasked.
        results: what it returns, and so what can be asked about.
    """

    required: tuple[str, ...]
    transactional: bool
    results: tuple[str, ...]


@dataclass(frozen=True)
class Service:
    """A service of one domain and its intents, the lookup first."""

    name: str
    domain: str
    intents: dict[str, Intent]


SERVICES = {
    service.name: service
    for service in (
        Service(
            "restaurant",
            "life services",
            {
                "check_table": Intent(("date",), False, ("price", "address")),
                "book_table": Intent(("date", "time", "people"), True, ("phone", "address")),
            },
        ),
        Service(
            "train",
            "transport",
            {
                "check_train": Intent(("city", "date"), False, ("price", "platform")),
                "buy_train": Intent(("city", "date", "people"), True, ("price", "platform")),
            },
        ),
        Service(
            "clinic",
            "health care",
            {
                "check_doctor": Intent(("doctor",), False, ("phone", "address")),
                "book_doctor": Intent(("doctor", "date", "time"), True, ("phone", "price")),
            },
        ),
        Service(
            "cinema",
            "social entertainment",
            {
                "check_film": Intent(("film",), False, ("price", "address")),
                "buy_film": Intent(("film", "date", "people"), True, ("price", "platform")),
            },
        ),
        Service(
            "bank",
            "finance",
            {
                "check_account": Intent(("account",), False, ("price", "phone")),
                "pay_transfer": Intent(("account", "amount", "recipient"), True, ("price", "phone")),
            },
        ),
    )
}

# canonical value -> what users say for it beside the value itself, for each slot that users fill
SURFACES: dict[str, dict[str, str]] = {
    "date": {day[:3]: f"next_{day}" for day in ("monday", "tuesday", "wednesday", "thursday", "friday")},
    "time": {
        "09:00": "nine_in_the_morning",
        "11:30": "half_past_11",
        "14:15": "quarter_past_2_pm",
        "18:00": "six_pm",
        "20:45": "quarter_to_9_pm",
    },
    "people": {str(number): f"for_{word}" for number, word in enumerate(("two", "three", "four", "five", "six"), 2)},
    "city": {city: f"to_{city}" for city in ("paris", "london", "rome", "berlin", "oslo")},
    "doctor": {"dentist": "teeth", "gp": "family_doctor", "optician": "eyes", "dermatologist": "skin", "therapist": "massage"},
    "film": {film: f"that_{film}_film" for film in ("western", "musical", "thriller", "comedy", "drama")},
    "account": {"checking": "current_account", "savings": "my_savings"},
    "amount": {str(number): f"{number}_bucks" for number in (20, 50, 75, 100, 300)},
    "recipient": {name: f"for_{name}" for name in ("anna", "ben", "carla", "dan", "eve")},
}
VALUES = {slot: tuple(values) for slot, values in SURFACES.items()}
SURFACE_RATE = 0.35  # of values that users do not say canonically, as in Schema-Guided Dialogue

# values of the slots that services fill
RESULTS: dict[str, tuple[str, ...]] = {
    "price": ("12", "18", "25", "40", "60"),
    "address": ("3_oak_st", "8_elm_st", "5_main_st", "7_lake_rd", "2_hill_rd"),
    "phone": ("555-01", "555-02", "555-03", "555-04", "555-05"),
    "platform": ("A", "B", "C", "D", "E"),
}

CANONICAL = {word: (slot, value) for slot, values in SURFACES.items() for value, surface in values.items() for word in (value, surface)}
INTENTS = {name: (service, intent) for service in SERVICES.values() for name, intent in service.intents.items()}
