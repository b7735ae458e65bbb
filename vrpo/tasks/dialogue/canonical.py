"""One spelling for values that mean the same: "half past 11" and "11:30 am", "Two" and "2", "New  York" and "new york".

In Schema-Guided Dialogue a third of all call parameters differ on the surface from what the user said; comparing surfaces would
count them as mistakes. Relative dates ("next Tuesday") need a calendar and stay as they are: give such data its own table.
"""

from __future__ import annotations

import re

_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_NUMBERS = {word: str(number) for number, word in enumerate(_WORDS)}
_YES_NO = {"true": "true", "yes": "true", "false": "false", "no": "false"}
_CLOCK = re.compile(r"(?:at )?(\d{1,2})(?:[:.](\d{2}))?(?: ?o'?clock)? ?(a\.?m\.?|p\.?m\.?)?")
_SPOKEN = re.compile(r"(?:at )?(half past|quarter past|quarter to) (\d{1,2}) ?(a\.?m\.?|p\.?m\.?)?")
_DAYTIME = re.compile(r"^(?:(morning|afternoon|evening|night) (.+)|(.+?) (?:in the|at) (morning|afternoon|evening|night))$")
_SHIFT = {"half past": (0, 30), "quarter past": (0, 15), "quarter to": (-1, 45)}


def canonical(value: str) -> str:
    """The canonical spelling of a value; text that is no number, clock time, or yes and no only loses case and extra spaces."""
    text = " ".join(str(value).replace("_", " ").casefold().split())
    text = " ".join(_NUMBERS.get(word, word) for word in text.split())
    if text in _YES_NO:
        return _YES_NO[text]
    if re.fullmatch(r"\$?\d+(?:,\d{3})*(?:\.\d+)?", text):
        number = text.lstrip("$").replace(",", "")
        return f"{float(number):g}"
    return _clock(text) or text


def _clock(text: str) -> str | None:
    """24-hour time of a clock expression, None for anything else. Without a hint the hour is taken as it is."""
    half = None
    if daytime := _DAYTIME.match(text):
        part = daytime[1] or daytime[4]
        text, half = daytime[2] or daytime[3], "am" if part == "morning" else "pm"
    if spoken := _SPOKEN.fullmatch(text):
        (shift, minute), hour, mark = _SHIFT[spoken[1]], int(spoken[2]), spoken[3]
        hour += shift
    elif clock := _CLOCK.fullmatch(text):
        if clock[2] is None and clock[3] is None and half is None and "clock" not in text:
            return None
        hour, minute, mark = int(clock[1]), int(clock[2] or 0), clock[3]
    else:
        return None
    half = mark.replace(".", "") if mark else half
    if hour > 23 or minute > 59:
        return None
    if half == "pm" and hour < 12:
        hour += 12
    if half == "am" and hour == 12:
        hour = 0
    return f"{hour % 24:02d}:{minute:02d}"
