"""The world of the simulated dialogues: five domains, a service each, their intents, slots and values.

The paper's dialogue set is private; its five domains are life services, transport, health care, social entertainment and finance.
Each service has an intent that only looks something up and a transactional one that books, buys or pays. A value has one canonical
spelling, which services take, and several surfaces, which users say ("on_tuesday", "next_tuesday": `date=tue`). Surfaces belong to one
value of one slot.
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

# canonical value -> surfaces, for each slot that users fill
VALUES: dict[str, dict[str, tuple[str, ...]]] = {
    "date": {day[:3]: (f"on_{day}", f"next_{day}") for day in ("monday", "tuesday", "wednesday", "thursday", "friday")},
    "time": {
        "09:00": ("nine_am", "9_in_the_morning"),
        "11:30": ("half_past_11", "11:30_am"),
        "14:15": ("quarter_past_2_pm", "2:15_pm"),
        "18:00": ("six_pm", "6_in_the_evening"),
        "20:45": ("quarter_to_9_pm", "8:45_pm"),
    },
    "people": {str(n): (f"{word}_people", f"for_{word}") for n, word in enumerate(("two", "three", "four", "five", "six"), 2)},
    "city": {city: (f"to_{city}", f"towards_{city}") for city in ("paris", "london", "rome", "berlin", "oslo")},
    "doctor": {
        "dentist": ("a_dentist", "teeth"),
        "gp": ("a_gp", "a_family_doctor"),
        "optician": ("an_optician", "eyes"),
        "dermatologist": ("a_dermatologist", "skin"),
        "therapist": ("a_therapist", "massage"),
    },
    "film": {film: (f"the_{film}", f"that_{film}_film") for film in ("western", "musical", "thriller", "comedy", "drama")},
    "account": {"checking": ("checking_account", "current_account"), "savings": ("savings_account", "my_savings")},
    "amount": {str(n): (f"{n}_dollars", f"{n}_bucks") for n in (20, 50, 75, 100, 300)},
    "recipient": {name: (f"to_{name}", f"for_{name}") for name in ("anna", "ben", "carla", "dan", "eve")},
}

# values of the slots that services fill
RESULTS: dict[str, tuple[str, ...]] = {
    "price": ("12", "18", "25", "40", "60"),
    "address": ("3_oak_st", "8_elm_st", "5_main_st", "7_lake_rd", "2_hill_rd"),
    "phone": ("555-01", "555-02", "555-03", "555-04", "555-05"),
    "platform": ("A", "B", "C", "D", "E"),
}

CANONICAL = {surface: (slot, value) for slot, values in VALUES.items() for value, surfaces in values.items() for surface in surfaces}
INTENTS = {name: (service, intent) for service in SERVICES.values() for name, intent in service.intents.items()}
