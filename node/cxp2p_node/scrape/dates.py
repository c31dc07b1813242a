"""Dates as pages write them, as ISO 8601."""

from __future__ import annotations

import re
from datetime import date, datetime
from email.utils import parsedate_to_datetime
from typing import Final

YEAR_MIN: Final = 1990  # before the web there were no pages; earlier dates are defaults of programs
YEAR_MAX: Final = 2099
DATE_CHARACTERS_MAX: Final = 80

_MONTHS: Final = {
    name: number
    for number, names in enumerate(
        ("jan january", "feb february", "mar march", "apr april", "may", "jun june", "jul july", "aug august"), 1
    )
    for name in names.split()
} | {
    "sep": 9,
    "sept": 9,
    "september": 9,
    "oct": 10,
    "october": 10,
    "nov": 11,
    "november": 11,
    "dec": 12,
    "december": 12,
}
_DAY: Final = re.compile(r"(?<!\d)(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?!\d)")
_DAY_FIRST: Final = re.compile(r"(?<!\d)(\d{1,2})\.(\d{1,2})\.(\d{4})(?!\d)")
_NAMED: Final = re.compile(r"\b([A-Za-z]{3,9})\.? (\d{1,2})(?:st|nd|rd|th)?,? (\d{4})\b")
_NAMED_DAY_FIRST: Final = re.compile(r"\b(\d{1,2})(?:st|nd|rd|th)?(?: of)? ([A-Za-z]{3,9})\.?,? (\d{4})\b")
_ADDRESS: Final = re.compile(r"/((?:19|20)\d\d)/(\d{1,2})/(\d{1,2})(?:/|$)")
_LOOSE: Final = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d(?::\d\d)?)(?:[.,]\d+)? ?(Z|[+-]\d\d:?\d\d)?$")


def iso_date(text: str) -> str:
    """The date and, if it is there, the time that `text` says; "" if it says none. Day-first where dots divide."""
    text = " ".join(text.split())
    if not text or len(text) > DATE_CHARACTERS_MAX:
        return ""
    if found := _LOOSE.match(text):
        zone = (found[3] or "").replace("Z", "+00:00")
        return _moment(f"{found[1]}T{found[2]}{zone}")
    return _moment(text) or _mail(text) or _day(text)


def date_in_address(path: str) -> str:
    """The day that the path of a page says, as those of blogs and newspapers do."""
    found = _ADDRESS.search(path)
    return _of(int(found[1]), int(found[2]), int(found[3])) if found else ""


def _moment(text: str) -> str:
    try:
        if len(text) <= len("2024-01-31"):
            day = date.fromisoformat(text)
            return _of(day.year, day.month, day.day)
        moment = datetime.fromisoformat(text)
    except ValueError:
        return ""
    return moment.isoformat(timespec="seconds") if YEAR_MIN <= moment.year <= YEAR_MAX else ""


def _mail(text: str) -> str:
    if "," not in text and ":" not in text:
        return ""
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return ""
    return moment.isoformat() if YEAR_MIN <= moment.year <= YEAR_MAX and ":" in text else ""


def _day(text: str) -> str:
    if found := _DAY.search(text):
        return _of(int(found[1]), int(found[2]), int(found[3]))
    if found := _DAY_FIRST.search(text):
        return _of(int(found[3]), int(found[2]), int(found[1]))
    if found := _NAMED.search(text):
        return _of(int(found[3]), _MONTHS.get(found[1].lower(), 0), int(found[2]))
    if found := _NAMED_DAY_FIRST.search(text):
        return _of(int(found[3]), _MONTHS.get(found[2].lower(), 0), int(found[1]))
    return ""


def _of(year: int, month: int, day: int) -> str:
    if not YEAR_MIN <= year <= YEAR_MAX:
        return ""
    try:
        return date(year, month, day).isoformat()
    except ValueError:
        return ""
