r"""Whether two answers are equal: lists, sets, points, intervals, equations and words here, single formulas by whoever is asked.

It stands in front of math_verify, which multiplies the letters of words, rounds small numbers away, takes the right side of any
equation, and confuses sets with points.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal, localcontext

from vrpo.tasks.answers import (
    FONT_GROUP,
    MOST_WORDS,
    THOUSANDS,
    Number,
    balanced,
    labelled,
    number,
    same_number,
    same_words,
    spell,
    units_differ,
    without_unit,
    words,
)

Ask = Callable[[str, str, bool], bool]  # reference, answer, whether they are spelled alike -> whether they are equal

_AND = re.compile(
    r"\s*,?\s*(?:\\(?:text|mathrm|mbox|textrm)\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*|\s*(?<!\\);\s*"
)
_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|.", re.DOTALL)
_DEPTH = {"(": 1, "[": 1, "{": 1, r"\{": 1, r"\lbrace": 1, ")": -1, "]": -1, "}": -1, r"\}": -1, r"\rbrace": -1}
_BRACKETS = {"(": "(", "[": "[", "{": "{", r"\{": "{", r"\lbrace": "{", ")": ")", "]": "]", "}": "}", r"\}": "}", r"\rbrace": "}"}
_TIGHT_THOUSANDS = re.compile(rf"(?<![\d.,]){THOUSANDS}(?!,?\d)")
_BASE = re.compile(r"\(?([0-9A-F]*\d[0-9A-F]*(?:\.[0-9A-F]+)?)\)?_\s*(?:\{\s*(?:\\text\s*\{)?)?(\d+)[\s}]*")
MOST_BRACKETS = 200  # of a list that is looked into
_VARIABLE = r"(?:[A-Za-z]|\\(?!infty)[a-z]+)"
_MEMBER = re.compile(rf"^{_VARIABLE}\s*\\in(?![a-zA-Z])\s*")  # x \in [1,2]
_BUILDER = re.compile(rf"^\\\{{\s*{_VARIABLE}\s*(?:\\in\s*\\mathbb\s*\{{?\s*R\s*\}}?\s*)?(?:\\mid(?![a-zA-Z])|\\vert|[|:])\s*(.*)\\\}}$")
_RELATIONS = {"<", ">", r"\le", r"\ge"}
_EQUALS = {"=", r"\approx", r"\equiv", r"\sim"}
_ALL_REALS = {r"\mathbb{R}", r"\mathbb R", "all real numbers", r"\text{all real numbers}"}
_INEXACT = re.compile(r"/|\\(?:frac|overline|bar|dot)")  # numbers without a decimal spelling of their own


class Unknown(Exception):
    """A comparison without verdict; its text is the reason."""


def same_answer(gold: str, answer: str, ask: Ask) -> bool:
    """Whether `answer` (which may be empty) states the reference `gold`; single formulas are left to `ask`.

    Raises:
        Unknown: "gold", the reference is prose, or broken; or whatever `ask` raises.
    """
    spelled = spell(gold)
    if not balanced(spelled) or not re.search(r"\w|\\\{", spelled):
        raise Unknown("gold")
    if not FONT_GROUP.search(gold) and any(len(words(part)) > MOST_WORDS for part in _split(spelled, {","})):
        raise Unknown("gold")
    return _same(spelled, spell(answer), ask)


def canonical(answer: str) -> str:
    r"""One spelling for answers that differ in typography only: `$1,234.0$` and `1234`, `\dfrac12 ` and `\frac12`, `1e-5` and `0.00001`.

    Texts with equal canonical form are equal answers; the reverse is for `same_answer` to tell.
    """
    text = spell(answer)
    brackets, parts = elements(text)
    if len(parts) == 1 and parts[0] == text:
        return _canonical_single(text)
    joined = ",".join(canonical(part) for part in parts)
    if brackets:
        return "\\" * (brackets == "{}") + brackets[0] + joined + "\\" * (brackets == "{}") + brackets[1]
    return joined.replace(",", ", ") if _TIGHT_THOUSANDS.search(joined) else joined


def _canonical_single(text: str) -> str:
    found = number(text)
    if found and not _INEXACT.search(text):
        return _digits(found)
    return re.sub(r"(?<!\w) | (?!\w)", "", text)


def _digits(found: Number) -> str:
    """A decimal number's shortest spelling; with a power of ten where that is long."""
    with localcontext(prec=3000):
        value = (Decimal(found.value.numerator) / Decimal(found.value.denominator)).normalize()
    if not -30 < value.adjusted() < 30:
        mantissa, _, exponent = f"{value:e}".partition("e")
        return rf"{mantissa}\times10^{{{int(exponent)}}}" + "%" * found.percent
    return f"{value:f}" + "%" * found.percent


def elements(text: str) -> tuple[str, list[str]]:
    """The brackets around a list, "" where there are none, and its elements; any other answer is the one element of a bare list.

    A comma with a space divides a list. Without a space, and with three digits behind it, it is a thousands separator; but in brackets
    without any other comma it divides: `(0,100)`.
    """
    brackets, inner = _enclosed(text)
    if r"\begin" in inner:
        return "", [text]
    inner = _AND.sub(", ", inner)
    if not brackets or ", " in inner:
        inner = _TIGHT_THOUSANDS.sub(lambda found: found[0].replace(",", ""), inner)
    parts = [part for part in _split(inner, {","}) if part]
    if len(parts) < 2 and brackets != "{}":
        return "", [text if re.search(r"[(\[]", text) or not parts else parts[0]]
    return brackets, parts


def _enclosed(text: str) -> tuple[str, str]:
    """The pair of brackets that encloses the whole text, such as "(]", and what it encloses; "" and the text where there is none."""
    tokens, depth = _TOKEN.findall(text), 0
    if not tokens or tokens[0] not in _BRACKETS or tokens[-1] not in _BRACKETS or sum(map(_BRACKETS.__contains__, tokens)) > MOST_BRACKETS:
        return "", text
    for place, token in enumerate(tokens):
        depth += _DEPTH.get(token, 0)
        if depth == 0 and place < len(tokens) - 1:
            return "", text
    return _BRACKETS[tokens[0]] + _BRACKETS[tokens[-1]], text[len(tokens[0]) : len(text) - len(tokens[-1])].strip()


def _split(text: str, separators: set[str]) -> list[str]:
    """The pieces of a text between separators that no bracket encloses."""
    pieces, depth, before = [""], 0, ""
    for token in _TOKEN.findall(text):
        depth += _DEPTH.get(token, 0)
        if token in separators and depth <= 0 and not (token == "=" and before in ("!", ":")):
            pieces.append("")
        else:
            pieces[-1] += token
        before = token
    return [piece.strip() for piece in pieces]


def _same(gold: str, answer: str, ask: Ask) -> bool:
    if not answer:
        return not _is_plain(gold) and ask(gold, answer, False)
    if canonical(gold) == canonical(answer):
        return _is_plain(gold) or ask(gold, answer, True)
    gold, answer = (_MEMBER.sub("", _BUILDER.sub(r"\1", text)) for text in (gold, answer))
    gold, answer = (r"(-\infty, \infty)" if text in _ALL_REALS else text for text in (gold, answer))
    ratios = [_split(text, {":"}) for text in (gold, answer)]
    if max(map(len, ratios)) > 2:
        return len(ratios[0]) == len(ratios[1]) and all(_same(one, other, ask) for one, other in zip(*ratios, strict=True))
    gold_sides, sides = (_split(text, _EQUALS) if len(elements(text)[1]) == 1 else [text] for text in (gold, answer))
    if len(gold_sides) > 1 or len(sides) > 1:
        return _same_equation(gold_sides, sides, ask)
    related = [len(_split(text, _RELATIONS)) > 1 for text in (gold, answer)]
    if related[0] != related[1] or (all(related) and _letters(gold) == _letters(answer)):
        gold, answer = _as_intervals(gold), _as_intervals(answer)
    (gold_brackets, golds), (brackets, answers) = elements(gold), elements(answer)
    if len(golds) != len(answers):  # a comma without space may divide a list after all
        golds, answers = _as_many(golds, gold, answers), _as_many(answers, answer, golds)
    if len(golds) == len(answers) == 1 and gold_brackets == brackets == "":
        golds, answers = _both_signs(golds[0]), _both_signs(answers[0])
        if len(golds) == len(answers) == 1:
            return _same_single(golds[0], answers[0], ask)
    if len(golds) == 1 != len(answers) and r"\cup" in gold and not brackets:
        return ask(gold, r" \cup ".join(answers), False)  # intervals, divided by commas
    if {gold_brackets, brackets} <= {"", "{}"}:
        golds, answers = ([sign for part in parts for sign in _both_signs(part)] for parts in (golds, answers))
        return _same_in_any_order(golds, answers, ask)
    if gold_brackets != brackets and {gold_brackets, brackets} != {"", "()"}:
        return False
    golds, answers = (golds, answers) if _coordinates(golds) and _coordinates(answers) else map(_in_order, (golds, answers))
    return len(golds) == len(answers) and all(_same(one, other, ask) for one, other in zip(golds, answers, strict=True))


def _letters(text: str) -> set[str]:
    return set(re.findall(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])", text))


def _coordinates(parts: list[str]) -> list[str]:
    """The names in `y = 3, x = 2`, none where parts are anything else."""
    names = [part[0] for part in parts if re.match(r"[xyz]\s*=", part)]
    return names if len(names) == len(set(names)) == len(parts) else []


def _in_order(parts: list[str]) -> list[str]:
    """Named coordinates in the order of a point's: `y = 3, x = 2` is (2, 3)."""
    return sorted(parts) if _coordinates(parts) else parts


def _is_plain(text: str) -> bool:
    """Whether an answer can be read without the help of a parser."""
    return number(text) is not None or bool(words(text))


def _same_in_any_order(golds: Sequence[str], answers: Sequence[str], ask: Ask) -> bool:
    left = list(answers)
    for one in golds if len(golds) == len(answers) else ():
        found = next((place for place, other in enumerate(left) if _same(one, other, ask)), None)
        if found is None:
            return False
        del left[found]
    return not left


def _as_many(parts: list[str], text: str, others: list[str]) -> list[str]:
    """The other reading of `100,200`, two numbers, where it gives as many as the other side has."""
    divided = text.split(",")
    return divided if len(divided) == len(others) and _TIGHT_THOUSANDS.fullmatch(text) else parts


def _both_signs(text: str) -> list[str]:
    r"""Both values of a text with one `\pm`."""
    return [text.replace(r"\pm", sign).strip() for sign in "+-"] if text.count(r"\pm") == 1 and r"\mp" not in text else [text]


def _as_intervals(text: str) -> str:
    r"""Inequalities of one variable as intervals, `x<3` as `(-\infty, 3)`, several as their union; any other text as it is."""
    found = [_as_interval(part) for part in elements(text)[1]]
    return r" \cup ".join(found) if all(found) else text


def _as_interval(text: str) -> str:
    sides = _split(text, _RELATIONS)
    signs = [token for token in _TOKEN.findall(text) if token in _RELATIONS]
    upward = [sign in ("<", r"\le") for sign in signs]
    if len(sides) != len(signs) + 1 or len(set(upward)) != 1:
        return ""
    if not upward[0]:
        sides, signs = sides[::-1], signs[::-1]
    closed = [sign in (r"\le", r"\ge") for sign in signs]
    if len(sides) == 2 and re.fullmatch(_VARIABLE, sides[0]):
        sides, closed = ["", *sides], [False, *closed]
    elif len(sides) == 2:
        sides, closed = [*sides, ""], [*closed, False]
    if len(sides) != 3 or not re.fullmatch(_VARIABLE, sides[1]):
        return ""
    return "".join(("[" if closed[0] else "(", sides[0] or r"-\infty", ", ", sides[2] or r"\infty", "]" if closed[1] else ")"))


def _same_equation(gold_sides: list[str], sides: list[str], ask: Ask) -> bool:
    """Of an equation the right side counts, if what stands left of it is a name or equal to it: not 6 = 5."""
    checked = sides[1:-1] if len(gold_sides) > 1 else sides[:-1]
    if not all(not side or _is_quantity(side) or _same(side, sides[-1], ask) for side in checked):
        return False
    named = not gold_sides[0] or _is_quantity(gold_sides[0])
    if len(gold_sides) == 1 or (named if len(sides) == 1 else canonical(gold_sides[0]) == canonical(sides[0])):
        return _same(gold_sides[-1], sides[-1], ask)
    return ask(" = ".join(gold_sides), sides[0] if len(sides) == 1 else f"{sides[0]} = {sides[-1]}", False)


def _same_single(gold: str, answer: str, ask: Ask) -> bool:
    if said := words(gold):
        return same_words(said, words(answer))
    if not number(without_unit(gold)[0]) and (said := labelled(gold)):
        return same_words(said, labelled(answer))
    based, base = _BASE.fullmatch(gold), _BASE.fullmatch(answer)
    if based or base:  # a reference in another base may be answered without it, not the reverse
        return bool(based) and (answer == based[1] if not base else based.groups() == base.groups())
    (plain_gold, gold_unit) = without_unit(gold)
    (plain, unit) = without_unit(answer, beside_number=number(plain_gold) is not None)
    if units_differ(gold_unit, unit):
        return False
    one, other = number(plain_gold), number(plain)
    if one and other:
        return same_number(one, other)
    return ask(plain_gold, plain, canonical(plain_gold) == canonical(plain)) or (not one and unit != "" and ask(gold, answer, False))


def _is_quantity(side: str) -> bool:
    r"""Whether the left of an equation only names what the right is: `x`, `f(2)`, `m+n`, `\angle A`; not `2x` or `6`, and not `-x`."""
    name = re.sub(r"_(?:\{[^{}]*\}|.)", "", FONT_GROUP.sub("t", side))
    name = re.sub(r"(?<=[A-Za-z])'*\s*\([^()]*\)", "", name)
    return bool(re.search(r"[A-Za-z]", name)) and not re.search(r"\d|^-|\\sqrt|^\\(?:pi|infty)$", name)
