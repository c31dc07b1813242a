"""Requests about keys: a body or a query becomes terms, a change of them, a grace, or which use. Raises Fault."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Final
from urllib.parse import parse_qsl

from cxp2p_gateway.faults import Condition, Fault, out_of_range
from cxp2p_gateway.fields import Fields, checked_text
from cxp2p_gateway.key_ring import GRACE_S_MAX, PARALLEL_MAX, RPM_MAX, SPEND_CREDITS_MAX, TPM_MAX
from cxp2p_gateway.keys import Terms
from cxp2p_gateway.moments import moment_ms
from cxp2p_gateway.spending import MICRO, Reset
from cxp2p_gateway.store.rows import GroupBy, UseQuery

USE_DAYS: Final = 30  # with today, if it is not said which
USE_DAYS_MAX: Final = 366
GROUPS_OF_KEY: Final = (GroupBy.DAY, GroupBy.MODEL, GroupBy.SERVICE, GroupBy.APP)
GROUPS_OF_ACCOUNT: Final = (*GROUPS_OF_KEY, GroupBy.KEY)
SHOWN_LENGTH_MAX: Final = 40
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def terms_ask(body: dict[str, Any]) -> Terms:
    """The request of `POST /keys`: all fields are optional, and what is left out is no limit."""
    return _changed(Terms(), Fields(body), TERMS)


def change_ask(body: dict[str, Any]) -> Callable[[Terms], Terms]:
    """The request of `PATCH /keys/{id}`: what is named is changed, and null takes a limit away."""
    fields = Fields(body)
    named = {name: read for name, read in TERMS.items() if name in body}
    _changed(Terms(), fields, named)  # so that what is wrong is told before any key is looked for
    return lambda terms: _changed(terms, fields, named)


def rotate_ask(body: dict[str, Any]) -> int:
    """The request of `POST /keys/{id}/rotate`: for how many seconds the old key stays good."""
    return Fields(body).whole("grace_seconds", 0, GRACE_S_MAX) or 0


def use_ask(query: bytes, today: date, groups: tuple[GroupBy, ...]) -> UseQuery:
    """The query of a usage request: `from` and `to`, both included, and `group_by`."""
    fields = Fields(query_fields(query))
    last = _day(fields, "to") or today
    first = _day(fields, "from") or _days_before(last, USE_DAYS - 1)
    if first > last:
        raise out_of_range("from", f"{first} is after {last}")
    if (last - first).days >= USE_DAYS_MAX:
        raise out_of_range("from", f"there are more than {USE_DAYS_MAX} days from {first} to {last}")
    group_by = fields.choice("group_by", [each.value for each in groups]) or GroupBy.DAY
    return UseQuery(first_day=first.isoformat(), last_day=last.isoformat(), group_by=GroupBy(group_by))


def generation_ask(query: bytes) -> str:
    """The query of `GET /generation`: the id of an answer."""
    generation = Fields(query_fields(query)).text("id")
    if not generation:
        raise Fault(Condition.ID_MISSING, "id")
    return generation


def _changed(terms: Terms, fields: Fields, named: Mapping[str, Callable[[Fields, Terms], Terms]]) -> Terms:
    for read in named.values():
        terms = read(fields, terms)
    return terms


def _texts(fields: Fields, name: str) -> tuple[str, ...]:
    listed = fields.list(name) or []
    return tuple(checked_text(each, fields.param(f"{name}[{index}]")) for index, each in enumerate(listed))


def _spend_limit(fields: Fields) -> int | None:
    credits = fields.number("spend_limit", 0, SPEND_CREDITS_MAX)
    if credits is None:
        return None
    micro = Decimal(repr(credits)) * MICRO
    if micro != int(micro):
        raise out_of_range("spend_limit", f"{credits!r} has more than six decimals")
    return int(micro)


def _reset(fields: Fields) -> Reset:
    return Reset(fields.choice("spend_reset", [each.value for each in Reset]) or Reset.NEVER)


def _moment_ms(fields: Fields, name: str) -> int | None:
    text = fields.text(name)
    if text is None:
        return None
    try:
        return moment_ms(text)
    except ValueError:
        shown = text[:SHOWN_LENGTH_MAX]
        raise out_of_range(name, f"{shown!r} is not a time like 2027-01-31T12:00:00Z (RFC 3339)") from None


def _day(fields: Fields, name: str) -> date | None:
    text = fields.text(name)
    if text is None:
        return None
    try:
        if not _DAY.fullmatch(text):
            raise ValueError
        return date.fromisoformat(text)
    except ValueError:
        raise out_of_range(name, f"{text[:SHOWN_LENGTH_MAX]!r} is not a day like 2027-01-31") from None


def _days_before(last: date, days: int) -> date:
    return last - timedelta(days=min(days, (last - date.min).days))


def query_fields(query: bytes) -> dict[str, Any]:
    """The parameters of a query. One that is given twice is refused: it is not clear what is meant."""
    given: dict[str, Any] = {}
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name in given:
            raise out_of_range(name[:SHOWN_LENGTH_MAX], "it is given more than once")
        given[name] = value
    return {name: value for name, value in given.items() if value}


TERMS: Final[Mapping[str, Callable[[Fields, Terms], Terms]]] = {
    "name": lambda fields, terms: replace(terms, name=fields.text("name") or ""),
    "spend_limit": lambda fields, terms: replace(terms, spend_limit=_spend_limit(fields)),
    "spend_reset": lambda fields, terms: replace(terms, spend_reset=_reset(fields)),
    "services": lambda fields, terms: replace(terms, services=_texts(fields, "services")),
    "models": lambda fields, terms: replace(terms, models=_texts(fields, "models")),
    "rpm": lambda fields, terms: replace(terms, rpm=fields.whole("rpm", 1, RPM_MAX)),
    "tpm": lambda fields, terms: replace(terms, tpm=fields.whole("tpm", 1, TPM_MAX)),
    "max_parallel": lambda fields, terms: replace(terms, parallel_max=fields.whole("max_parallel", 1, PARALLEL_MAX)),
    "expires_at": lambda fields, terms: replace(terms, expires_at_ms=_moment_ms(fields, "expires_at")),
}
"""How each field of a request becomes a term, by its name there."""
