"""Procedural science: one law, two given quantities, and four options, three of which are the results of named mistakes.

A question such as `mass 3000 g , acceleration 4 m/s2 , force in N ? 7 (A) 12 (B) 120 (C) 13 (D)` is answered by a derivation in one line,
`mass 3 kg * acceleration 4 m/s2 = 12`: every quantity in the law's unit, then the option's text (its letter is accepted as well). The wrong
options come from a wrong formula (7), a wrong unit factor (120) and a slip (13).

Difficulty is the number of steps: the calculation, and one conversion for each quantity that is given in a small unit. A writer may go
wrong in each of them. Words and whole numbers are the model's symbols, and it states the option's text: putting numbers together from
digits, or looking up the letter beside a number, is more than a very small Transformer learns in some hundred steps.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from vrpo.tasks.base import ProceduralTask

UNITS = {  # the unit in which the laws hold; for factors of a law also a smaller one, and how many of it make one
    "acceleration": ("m/s2", "cm/s2", 100),
    "area": ("m2", "dm2", 100),
    "charge": ("C", "C", 1),
    "current": ("A", "mA", 1000),
    "density": ("kg/l", "g/l", 1000),
    "distance": ("m", "m", 1),
    "energy": ("J", "J", 1),
    "force": ("N", "N", 1),
    "mass": ("kg", "g", 1000),
    "power": ("W", "mW", 1000),
    "pressure": ("Pa", "mPa", 1000),
    "resistance": ("ohm", "mohm", 1000),
    "speed": ("m/s", "cm/s", 100),
    "time": ("s", "ms", 1000),
    "voltage": ("V", "V", 1),
    "volume": ("l", "ml", 1000),
}
LAWS = [  # product = first factor * second factor; each law also gives its factors
    ("force", "mass", "acceleration"),
    ("distance", "speed", "time"),
    ("mass", "density", "volume"),
    ("voltage", "current", "resistance"),
    ("charge", "current", "time"),
    ("energy", "power", "time"),
    ("force", "pressure", "area"),
]
FACTORS = range(2, 10)  # values of factors, in the law's unit
MISTAKES = ("wrong formula", "wrong unit factor", "slip")
LETTERS = "ABCD"

_ANSWER = re.compile(r"(?:.* )?(?:= (-?[\d.]+)|(\([A-D]\)))")  # the result after the last equals sign, or a letter
_REFERENCE = re.compile(r"-?[\d.]+(?: \([A-D]\))?|\([A-D]\)")
_ATTEMPTS = 20  # draws per wanted problem, after which there are taken to be no more


def read_question(question: str) -> tuple[dict[str, tuple[int, str]], str, list[str]]:
    """Take a question apart: value and unit of each given quantity, the quantity asked for, the options' texts in order.

    Raises:
        ValueError: the text is not such a question.
    """
    words = question.split()
    if len(words) != 20 or [words[i] for i in (3, 7, 9, 11)] != [",", ",", "in", "?"]:
        raise ValueError(f"not a question about two quantities with four options: {question!r}")
    return {words[i]: (int(words[i + 1]), words[i + 2]) for i in (0, 4)}, words[8], words[12::2]


def derive(question: str, rng: random.Random | None = None, slip_rate: float = 0.0) -> str:
    """The one-line derivation of a question. Without `rng` it is right.

    With `slip_rate` each step goes wrong: a conversion by a factor of ten, the calculation by the wrong formula or by one. After a wrong
    conversion the calculation follows from it. This is how the base model's corpus gets its mistakes.
    """

    def slips() -> bool:
        return rng is not None and rng.random() < slip_rate

    given, target, _ = read_question(question)
    product, first, second = _law({*given, target})
    names = (first, second) if target == product else (product, first if target == second else second)
    values = []
    for name in names:
        value, unit = given[name]
        small = unit != UNITS[name][0]
        values.append(value // UNITS[name][2] * (10 if slips() else 1) if small else value)
    operation = "*" if target == product else "/"
    result, wrong = _results(operation, *values)
    if all(value in FACTORS for value in values[operation == "/" :]) and slips():
        result = rng.choice([wrong, result - 1, result + 1])
    left, right = (f"{name} {value} {UNITS[name][0]}" for name, value in zip(names, values, strict=True))
    return f"{left} {operation} {right} = {result:g}"


def generate_problems(count: int, seed: int, exclude: set[str]) -> list[dict[str, Any]]:
    """Draw `count` different problems with one to three steps, products and quotients alike, options in random order.

    Rows hold `question`, `answer` (an option, `12 (B)`), `choices`, `length` (steps), `law`, `mistakes` (which wrong option comes from which) and a
    clean `solution`; questions in `exclude` are avoided.

    Raises:
        ValueError: fewer than `count` such problems exist.
    """
    rng, seen, rows = random.Random(f"physics-{seed}"), set(exclude), []
    for _ in range(_ATTEMPTS * count):
        row = _draw(rng)
        if row["question"] not in seen:
            seen.add(row["question"])
            rows.append(row)
            if len(rows) == count:
                return rows
    raise ValueError(f"{count} different problems cannot be drawn; ask for fewer")


def _draw(rng: random.Random) -> dict[str, Any]:
    law = rng.choice(LAWS)
    product, first, second = law
    values = dict(zip(law[1:], rng.choice([(a, b) for a in FACTORS for b in FACTORS if a + b != a * b]), strict=True))
    values[product] = values[first] * values[second]
    target = rng.choice([product, product, first, second])
    given = rng.sample([name for name in law if name != target], 2)
    small = {name for name in given if name != product and rng.random() < 0.5}
    stated = [f"{name} {values[name] * UNITS[name][2]} {UNITS[name][1]}" if name in small else _in_unit(name, values) for name in given]
    factors = (first, second) if target == product else (product, first if target == second else second)
    right, wrong = _results("*" if target == product else "/", *(values[name] for name in factors))
    slip = rng.choice([value for value in (right - 1, right + 1) if value != wrong])
    results = {wrong: MISTAKES[0], right * 10 if target == product else right / 10: MISTAKES[1], slip: MISTAKES[2], right: None}
    options = rng.sample(sorted(results), 4)
    question = " ".join(
        [*(f"{text} ," for text in stated), f"{target} in {UNITS[target][0]} ?"]
        + [f"{option:g} ({letter})" for option, letter in zip(options, LETTERS, strict=True)]
    )
    return {
        "question": question,
        "answer": f"{right:g} ({LETTERS[options.index(right)]})",
        "choices": [{"label": letter, "text": f"{option:g}"} for letter, option in zip(LETTERS, options, strict=True)],
        "length": 1 + len(small),
        "law": f"{product} = {first} * {second}",
        "mistakes": {letter: results[option] for letter, option in zip(LETTERS, options, strict=True) if results[option]},
        "solution": derive(question),
    }


def _in_unit(name: str, values: dict[str, int]) -> str:
    return f"{name} {values[name]} {UNITS[name][0]}"


def _law(names: set[str]) -> tuple[str, str, str]:
    for law in LAWS:
        if set(law) == names:
            return law
    raise ValueError(f"no law connects {', '.join(sorted(names))}")


def _results(operation: str, left: int, right: int) -> tuple[float, float]:
    """What the right and the wrong formula give."""
    return (left * right, left + right) if operation == "*" else (left / right, left - right)


class PhysicsTask(ProceduralTask):
    """Prompts and exact answer checking for procedural science (see `vrpo.tasks.base.ProceduralTask`)."""

    name = "physics"

    def generate(self, count: int, seed: int, exclude: set[str]) -> list[dict[str, Any]]:
        """See `generate_problems`."""
        return generate_problems(count, seed, exclude)

    def write(self, row: dict[str, Any], rng: random.Random, slip_rate: float) -> str:
        """See `derive`."""
        return derive(row["question"], rng, slip_rate)

    def new_tokenizer(self) -> Any:
        """See `new_tokenizer`."""
        return new_tokenizer()

    def prompt(self, question: str) -> str:
        """The question and a colon."""
        return f"{question} :"

    def demonstration(self, row: dict[str, Any]) -> str:
        """The clean derivation of a row."""
        return derive(row["question"])

    def extract(self, response: str, choices: Sequence[dict[str, str]] = ()) -> str | None:
        """The result at the end of a response, or the option's letter in brackets; None for anything else."""
        found = _ANSWER.fullmatch(response.strip())
        return (found[1] or found[2]) if found else None

    def verify(self, responses: list[str], answers: list[str]) -> list[float | None]:
        """1.0 where the text or the letter of the reference `12 (B)` is stated, 0.0 where not, None where the reference is no option."""
        return [
            float(self.extract(response) in answer.split()) if _REFERENCE.fullmatch(answer) else None
            for response, answer in zip(responses, answers, strict=True)
        ]

    def canonical_response(self, answer: str) -> str:
        """A shortest response that states `answer`."""
        stated = answer.split()[0] if answer else ""
        return stated if stated.startswith("(") else f"= {stated}"


def new_tokenizer() -> Any:
    """A tokenizer whose symbols are the task's words and numbers, one token each, parted by spaces; `<eos>` and `<pad>` of their own."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    products = {a * b for a in FACTORS for b in FACTORS}
    numbers = {*range(-1, 100), *FACTORS, *(f * scale for f in FACTORS for scale in (10, 100, 1000)), *(f / 10 for f in FACTORS)}
    numbers |= {product * scale for product in products for scale in (10, 100)}
    units = {unit for large, small, _ in UNITS.values() for unit in (large, small)}
    words = [*",?:=*/", "in", *(f"({letter})" for letter in LETTERS), *UNITS, *sorted(units), *(f"{n:g}" for n in sorted(numbers))]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(["<pad>", "<eos>", *words]))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>", padding_side="left")
