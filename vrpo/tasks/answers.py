r"""Answers as people and models write them: one LaTeX spelling, plain numbers, words, units. Pure functions of text."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

_SYMBOLS = {
    **dict.fromkeys("−–—‒‐‑", "-"),
    **dict.fromkeys("°º˚", r"^\circ "),
    **{"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "⁄": "/", "π": r"\pi ", "∞": r"\infty ", "±": r"\pm ", "’": "'"},
    **{"≤": r"\le ", "≥": r"\ge ", "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset "},
    **{"√": r"\sqrt", "⟨": "(", "⟩": ")", "⩽": r"\le ", "⩾": r"\ge ", "ℝ": r"\mathbb{R}", "¢": r"\text{ cents}", "“": '"', "”": '"'},
}
_POWERS = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_FONT = r"\\(?:text|math)(?:bf|it|rm|sf|tt|normal|up)?|\\(?:boldsymbol|bm|mbox|hbox|emph|operatorname|ce|underline)"
_BRACED = r"\{((?:[^{}]|\{[^{}]*\})*)\}"
FONT_GROUP = re.compile(rf"(?:{_FONT})(?![a-zA-Z])\s*{_BRACED}")
_WHOLE_FONT = re.compile(rf"(?:{_FONT})(?![a-zA-Z])\s*\{{(.*)\}}|\\(?:rm|bf|it|sf|tt)(?![a-zA-Z])\s*(.*)", re.DOTALL)
_SPELLINGS = [(re.compile(pattern), new) for pattern, new in (
    (r"(?i)^(?:\\text\s*\{\s*)?(?:the\s+)?(?:final\s+)?answer\b(?:\s+is)?\s*:?\s*\}?\s*(?=\S)", ""),
    (r"\\(?:text)?color\s*\{[^{}]*\}|\\(?:tiny|small|[lL]arge|LARGE|[hH]uge|ensuremath)(?![a-zA-Z])|\\[hv]space\*?\s*\{[^{}]*\}", ""),
    (r"(?<![\\a-zA-Z])\{\s*\}|\\\\$", ""),
    (r"\\(?:[dtc]|nice|s)frac(?![a-zA-Z])", r"\\frac"),
    (r"\\frac\s*(\\(?:pi|theta|alpha|beta|lambda|phi))(?![a-zA-Z])", r"\\frac{\1}"),
    (r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi "),
    (r"(?<![\\A-Za-z])((?:arc)?(?:sin|cos|tan)|cot|sec|csc|ln|log|exp)(?=\s*[(\d]|\s+[A-Za-z](?![A-Za-z])|\s*\\(?!text))", r"\\\1 "),
    (r"\\(?:mathrm|text)\s*\{\s*i\s*\}|\\imath(?![a-zA-Z])", "i"),
    (r"(?<=[\d}])\s+(?=i(?![a-zA-Z]))", ""),
    (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle)(?![a-zA-Z])", ""),
    (r"(?<!\\)\\!\s*|(?<!\\)\\\$|[€£¥]", ""),
    (r"\{\s*,\s*\}", ","),
    (r"(?<!\\)\\[,;: ]|~|\\(?:quad|qquad|thinspace)(?![a-zA-Z])", " "),
    (r"\\%", "%"),
    (r"\s*(?:\\text\{\s*percent(?:age)?\s*\}|(?<=[\d\s])percent(?:age)?\b)", "%"),
    (r"\s*(?:\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![a-zA-Z])|\\degree(?![a-zA-Z])|(?<=\d)\^o(?![a-zA-Z])"
     r"|(?<=\d)\^(?:\{o\}|\\text\{o\}|\{\\text\{o\}\})|(?<=[\d\s])\\deg(?![a-zA-Z]))", r"^\\circ "),
    (r"\\(?:text|mathrm)\s*\{\s*\^\\circ\s*([CF])\s*\}", r"^\\circ \1"),
    (r"(?:\\(?:text|mathrm)\s*\{\s*([MLR])\s*\}|\b([MLR]))\s*_\s*(?:\{\s*\\odot\s*\}|\\odot(?![a-zA-Z]))", r"\\text{ \1\2sun}"),
    (r"\\AA(?![a-zA-Z])|\\mathring\s*\{(?:\\(?:text|mathrm)\s*\{A\}|A)\}", r"\\text{ Å}"),
    (r"\\cent(?![a-zA-Z])", r"\\text{ cents}"),
    (r"(?<=\d)\s*\^?\s*(\{\s*)?(\\(?:text|mathrm)\s*\{\s*)?(?:st|nd|rd|th)(?![a-zA-Z])(?(2)\s*\})(?(1)\s*\})", ""),
    (r"(?i)(?<=:\d\d)\s*(\\text\s*\{\s*)?([ap])\.?m\b\.?(?(1)\s*\})", lambda found: f" {found[2].lower()}m"),
    (r"^\]([^\[\]]*,[^\[\]]*[\[\]])$", r"(\1"),
    (r"^([\[(][^\[\]]*,[^\[\]]*)\[$", r"\1)"),
    (r"\\(?:leqslant|leq)(?![a-zA-Z])|<=", r"\\le "),
    (r"\\(?:geqslant|geq)(?![a-zA-Z])|>=", r"\\ge "),
    (r"\\lt(?![a-zA-Z])", "<"),
    (r"\\gt(?![a-zA-Z])", ">"),
    (r"\\varnothing(?![a-zA-Z])", r"\\emptyset "),
    (r"\\mu\s*\\(?:text|mathrm)\s*\{\s*", r"\\text{u"),
    (r"\\infin(?![a-zA-Z])", r"\\infty "),
    (r"(^|[,(\[]\s*)\+\s*(?=\\infty)", r"\1"),
    (r"\\[lr]angle(?![a-zA-Z])", lambda found: "(" if found[0][1] == "l" else ")"),
    (r"\*\*", "^"),
    (r"(?<=\d)\s*(\\text\s*\{\s*)?((?:thou|mill|bill|trill)(?:sand|ion))\b\s*((?(1)\}|(?!)))?",
     lambda found: rf" \times 10^{{{_POWERS[found[2]]}}}" + (r"\text{ " if found[1] and not found[3] else "")),
    (r"(?<=\d)\s*\\(?:text|mathrm)\s*\{\s*[eE]\s*\}\s*\{?([+-]?\d+)\}?", r"e\1"),
    (r"(?<![\w\\.])(\d+\.?\d*|\.\d+)[eE]([+-]?\d+)(?!\w|\.\d)", r"\1 \\times 10^{\2}"),
)]  # fmt: skip


def trim(answer: str) -> str:
    """Take off what surrounds an answer in running text: spaces, dollar signs, emphasis, a full stop."""
    text = re.sub(r"(?<!\\)[,;]+$", "", answer.strip())
    if text.endswith(".") and not text.endswith(".."):
        text = text[:-1].rstrip()
    if found := re.fullmatch(r"(\$\$?|`)(.*[^\\$])\1|\\[(\[](.*)\\[)\]]", text, re.DOTALL):
        text = (found[2] or found[3] or "").strip()
    return text[2:-2].strip() if len(text) > 4 and text[:2] == text[-2:] == "**" else text


def plain_unicode(text: str) -> str:
    r"""Unicode typography in ASCII and LaTeX: `½` as `\frac{1}{2}`, `10⁻⁵` as `10^{-5}`, `−` as `-`, thin and full-width forms as usual ones."""
    if text.isascii():
        return text
    for tag, command in (("<super>", "^"), ("<sub>", "_")):
        raised = {char for char in set(text) if unicodedata.decomposition(char).startswith(tag) and char not in "ºª"}
        if raised:
            text = re.sub(f"[{''.join(raised)}]+", lambda run, up=command: f"{up}{{{unicodedata.normalize('NFKC', run[0])}}}", text)
    fraction = {char for char in set(text) if unicodedata.decomposition(char).startswith("<fraction>")}
    for char in fraction:
        above, below = unicodedata.normalize("NFKC", char).split("⁄")
        text = text.replace(char, rf"\frac{{{above}}}{{{below}}}")
    text = re.sub(r"√\s*(\d+|\w)", r"\\sqrt{\1}", text)
    text = "".join(_SYMBOLS.get(char, char) for char in text)
    return "".join(_SYMBOLS.get(char, char) for char in unicodedata.normalize("NFKC", text))


def spell(answer: str) -> str:
    """One LaTeX spelling for what surrounds, spaces and decorates an answer; equal results are equal answers."""
    text = plain_unicode(trim(answer))
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    text = " ".join(text.split())
    whole = _WHOLE_FONT.fullmatch(text)
    if whole and (whole[1] is None or balanced(whole[1])):
        return spell(whole[1] if whole[1] is not None else whole[2])
    return text


def balanced(text: str) -> bool:
    """Whether no brace closes what opened before the text."""
    depth = 0
    for brace in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth < 0:
            return False
    return depth == 0


# Numbers

THOUSANDS = r"[1-9]\d{0,2}(?:,\d{3})+"
_DIGITS = rf"(?:{THOUSANDS}|[1-9]\d{{0,2}}(?: \d{{3}})+|\d+)?(?:\.\d*)?"
_POWER = r"10\s*\^\s*(?:[{(]\s*([+-]?\s*\d+)\s*[)}]|([+-]?\d+))"
_SCIENTIFIC = re.compile(rf"({_DIGITS})(?:\s*(?:\\times|\\cdot|\*|x)\s*{_POWER})?|{_POWER}")
_FRACTION = re.compile(rf"({_DIGITS})\s*/\s*({_DIGITS})|\\frac\s*(?:\{{\s*([+-]?{_DIGITS})\s*\}}|(\d))\s*(?:\{{\s*({_DIGITS})\s*\}}|(\d+))")
_REPEATING = re.compile(r"(\d*)\.(\d*)\s*\\(?:overline|bar|dot)\s*(?:\{\s*(\d+)\s*\}|(\d))")
_MIXED = re.compile(r"(\d+)(?:\s*(\\frac.*)|\s(\d+\s*/\s*\d+))")
_LARGEST_EXPONENT = 400
_PLACES, _DECIMALS, _ROUNDED = Fraction(1, 2_000_000), Fraction(1, 200_000), Fraction(1, 20_000)


@dataclass(frozen=True)
class Number:
    """A plain number: its value, a percentage as written, and whether it was written without a decimal point or power of ten."""

    value: Fraction
    exact: bool
    percent: bool = False


def number(text: str) -> Number | None:
    r"""The number that a spelled text is: an integer, decimal, fraction, mixed number or power of ten, with or without a percent sign."""
    found = re.fullmatch(r"([+-]?)\s*(.*?)\s*(%?)", text, re.DOTALL)
    body = found[2]
    while len(body) > 2 and body[0] + body[-1] in ("()", "{}") and not re.search(r"[(){}]", body[1:-1]):
        body = body[1:-1].strip()
    value = _unsigned(body)
    return value and Number(-value.value if found[1] == "-" else value.value, value.exact, found[3] == "%")


def _unsigned(text: str) -> Number | None:
    if found := _SCIENTIFIC.fullmatch(text):
        digits, exponent = found[1], next((group for group in found.groups()[1:] if group), None)
        if digits is not None and not re.search(r"\d", digits):
            return None
        power = int((exponent or "0").replace(" ", ""))
        if abs(power) > _LARGEST_EXPONENT:
            return None
        digits = digits or "1"
        return Number(_decimal(digits) * Fraction(10) ** power, exponent is None and "." not in digits)
    if found := _FRACTION.fullmatch(text):
        parts = [group for group in found.groups() if group and re.search(r"\d", group)]
        if len(parts) == 2 and (divisor := _decimal(parts[1])):
            return Number(_decimal(parts[0]) / divisor, True)
    if found := _REPEATING.fullmatch(text):
        before, period = found[1] + found[2], found[3] or found[4]
        nines = 10 ** len(period) - 1
        return Number((int(before or 0) + Fraction(int(period), nines)) / 10 ** len(found[2]), True)
    if (found := _MIXED.fullmatch(text)) and (part := _unsigned(found[2] or found[3])) and 0 < part.value < 1:
        return Number(int(found[1]) + part.value, True)
    return None


def _decimal(digits: str) -> Fraction:
    return Fraction(re.sub(r"[ ,]", "", digits).rstrip("."))


def same_number(one: Number, other: Number) -> bool:
    """Whether two numbers are equal: exactly, or to six decimal places where one has a decimal point, of small ones to six digits.

    A percentage equals its hundredth; beside a number without the sign, its own number too.
    """
    if one.percent != other.percent:
        bare = Number(one.value, one.exact), Number(other.value, other.exact)
        hundredths = [Number(side.value / 100, side.exact) if side.percent else side for side in (one, other)]
        return same_number(*bare) or same_number(*hundredths)
    difference = abs(one.value - other.value)
    if one.exact and other.exact:
        return difference == 0
    relative = _ROUNDED if one.exact or other.exact else _DECIMALS  # 0.033333 is 1/30, though of five digits
    return difference <= min(_PLACES, relative * max(abs(one.value), abs(other.value)))


# Words

_NAMES = re.compile(
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|pi|rho|sigma|tau|phi|chi|psi|omega|infinity|inf|"
    "(?:arc)?(?:sin|cos|tan)h?|cot|sec|csc|log|ln|exp|sqrt|max|min|gcd|lcm|mod"
)
_SHORT_WORDS = re.compile("a|an|as|at|by|do|he|if|in|is|it|me|my|no|of|on|or|so|to|up|us|we")
_WORD = re.compile(r"[^\W\d_]+(?:['.-][^\W\d_]+)*|(?:[A-Z][a-z]?\d*){2,}")  # the second: a chemical formula
_FIGURE = re.compile(r"\\(?:angle|triangle)(?![a-zA-Z])")
MOST_WORDS = 3  # of an answer that is not marked as text; more is prose, which nothing here can judge


def unwrapped(text: str) -> str:
    r"""The text without font commands: `\text{H}_2\text{O}` is `H_2O`."""
    plain = text
    while (inner := FONT_GROUP.sub(r"\1", plain)) != plain:
        plain = inner
    return plain


def words(text: str) -> list[str]:
    """The words that an answer consists of; none where it is a formula: a name of a function, a single letter, a product of variables."""
    found = _FIGURE.sub(" ", unwrapped(text)).strip("() ").split() or [""]
    if not all(_WORD.fullmatch(word) for word in found) or any(_NAMES.fullmatch(word.lower()) for word in found):
        return []
    if max(map(len, found)) < 2 or (len(found) == 1 and _is_product(found[0])):
        return []
    return found


def labelled(text: str) -> list[str]:
    """The words and numbers that an answer such as `June 6` or `5:30 pm` consists of; none where it has no words, or is more than that."""
    found = unwrapped(text).split()
    said = [token for token in found if not re.fullmatch(r"[\d:/.,-]*\d", token)]
    return found if said != found and words(" ".join(said)) else []


def _is_product(letters: str) -> bool:
    """Whether up to three small letters are rather a product than a word: usual variables, or no vowel."""
    return letters.islower() and len(letters) <= 3 and (set(letters) <= set("abcxyz") or not set(letters) & set("aeiou"))


def same_words(ones: list[str], others: list[str]) -> bool:
    """Whether two texts agree word by word, capitals aside that tell nothing apart."""
    return list(map(fold, ones)) == list(map(fold, others))


def fold(word: str) -> str:
    """A word in small letters, unless its capitals may tell it from another: `Bb` from `BB`, `CO` from `Co`, `T` from `t`, `pH`."""
    folded = word.casefold()
    if not _usual_capitals(word) or re.fullmatch(r"(?:(.)\1)+", folded):  # the second: a genotype
        return word
    return folded if _SHORT_WORDS.fullmatch(folded) or len(word) > 2 or (len(word) == 2 and not word.isupper()) else word


def _usual_capitals(word: str) -> bool:
    """Whether a word is written small, with one capital in front, or in capitals."""
    return word.isalpha() and (word.islower() or word.isupper() or (word[0].isupper() and word[1:].islower()))


# Units

_UNITS = {
    name: unit
    for unit, names in {
        "mi h": "mph", "m": "m meter metre", "cm": "cm centimeter centimetre", "mm": "mm millimeter millimetre", "km": "km kilometer kilometre",
        "in": "in inch inche", "ft": "ft foot feet", "yd": "yd yard", "mi": "mi mile", "g": "g gm gram", "kg": "kg kilogram", "mg": "mg milligram",
        "lb": "lb pound", "oz": "oz ounce", "s": "s sec second", "min": "min minute", "h": "h hr hour", "d": "day", "wk": "week",
        "mo": "month", "yr": "yr year", "L": "L l liter litre", "mL": "mL ml milliliter", "N": "N newton", "J": "J joule", "kJ": "kJ",
        "W": "W watt", "V": "V volt", "A": "A ampere amp", "K": "K kelvin", "C": "C celsius coulomb", "F": "F fahrenheit", "Hz": "Hz hertz",
        "Pa": "Pa pascal", "mol": "mol mole", "eV": "eV", "$": "dollar USD", "c": "cent", "deg": "deg degree", "rad": "rad radian",
        "um": "um micrometer micron", "nm": "nm nanometer", "ohm": "ohm", "kW": "kW", "MW": "MW", "kN": "kN", "kPa": "kPa", "atm": "atm",
        "kHz": "kHz", "MHz": "MHz", "GHz": "GHz", "mA": "mA", "mV": "mV", "kV": "kV", "MeV": "MeV", "keV": "keV", "T": "T tesla",
        "": "unit sq square cubic cu per",
    }.items()
    for name in names.split()
}  # fmt: skip
# no two products of these are one unit
_BASIC = {"m", "cm", "mm", "km", "in", "ft", "yd", "mi", "g", "kg", "mg", "lb", "oz", "s", "min", "h", "d", "wk", "mo", "yr"}
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
_SET_UNIT = re.compile(
    rf"(.*?[^\s\\])((?:\s*(?:(?:/|\*|\\cdot|\\times)\s*)?(?:{_FONT})(?![a-zA-Z])\s*{_BRACED}(?:\s*\^\s*\{{?-?\d\}}?)?)+)", re.DOTALL
)
_BARE_UNIT = re.compile(r"[A-Za-z](?:[A-Za-z\s./*^{}-]|(?<=[\^{-])\d|\\cdot)*")
_DEGREES = re.compile(rf"(.*?)\s*\^\\circ\s*(?:(?:{_FONT})(?![a-zA-Z])\s*\{{\s*)?([CF]?)\s*\}}?", re.DOTALL)


def without_unit(text: str, beside_number: bool = False) -> tuple[str, str]:
    r"""Split a spelled answer into value and unit (empty where it has none): `5 \text{ cm}^2`, `18 dollars`, `3 m/s`, `90^\circ`.

    A letter right behind a number is a variable (`5m`), unless the answer stands `beside_number`: a reference that is a number.
    """
    if (found := _DEGREES.fullmatch(text)) and found[1] and not _TRIGONOMETRY.search(text):
        return found[1], found[2] or "degree"
    if (found := _SET_UNIT.fullmatch(text)) and not FONT_GROUP.search(found[1]):
        unit = unwrapped(found[2]).strip()
        if number(found[1]) or all(_known(token) is not None for token in re.findall(r"[A-Za-z]+", unit.replace(r"\cdot", " "))):
            return found[1], unit
    for start in re.finditer(r"(?<=[\d)}.\s])(?=[A-Za-zμΩ]|\\(?:text|math|mu|Omega|frac))", text):
        head, tail = text[: start.start()], text[start.start() :]
        unit = _plain_unit(tail) if number(head.strip()) else tail
        if _BARE_UNIT.fullmatch(unit) and _is_unit(head, unit, beside_number):
            return head.rstrip(), unit
    return text, ""


def _plain_unit(text: str) -> str:
    r"""A unit without LaTeX: `\frac{\text{m}}{\text{s}^2}` is `m/s^2`, `\mu m` is `um`."""
    text = re.sub(r"\\mu(?![a-zA-Z])\s*|μ", "u", text)
    text = unwrapped(re.sub(r"\\Omega(?![a-zA-Z])|Ω", "ohm", text))
    return re.sub(rf"\\frac\s*{_BRACED}\s*{_BRACED}", r"\1/\2", text).strip()


def _is_unit(head: str, unit: str, beside_number: bool) -> bool:
    tokens = re.findall(r"[A-Za-z]+", unit.replace("cdot", ""))
    plain, spaced, known = number(head.strip()) is not None, head[-1:].isspace(), [_known(token) is not None for token in tokens]
    if all(known) and (len(tokens[0]) > 1 or (plain and (spaced or beside_number))):
        return plain or spaced
    return plain and spaced and all(map(bool.__or__, known, [bool(words(token)) for token in tokens]))


def _known(word: str) -> str | None:
    return next((_UNITS[form] for form in (word, word.lower(), word.lower().removesuffix("s")) if form in _UNITS), None)


def units_differ(one: str, other: str) -> bool:
    """Whether two units are known, powers aside, and not the same: kilometres and metres, m/s and km/h (`N/C` is `V/m`: not told)."""
    tokens = [re.findall(r"[A-Za-z]+", unit.replace("mph", "mi/h")) for unit in (one, other)]
    ones, others = ({_known(token) for token in unit} - {""} for unit in tokens)
    if ones == others or None in ones | others or len(ones) != len(others):
        return False
    return len(ones) == 1 or ones | others <= _BASIC
