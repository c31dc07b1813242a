"""The part of `SqlTables` that keeps what was used, day by day."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

from sqlalchemy import Connection, bindparam, func, select
from sqlalchemy.dialects import postgresql, sqlite

from cxp2p_gateway.store.rows import GroupBy, Use, UseQuery, UseSum
from cxp2p_gateway.store.schema import USES, values_of

COUNTED: Final = ("requests", "in_units", "out_units", "charge")
_NAMED: Final = tuple(each.name for each in fields(Use) if each.name not in COUNTED)
_GROUPS: Final = {
    GroupBy.DAY: USES.c.day,
    GroupBy.MODEL: USES.c.model,
    GroupBy.SERVICE: USES.c.service,
    GroupBy.KEY: USES.c.key,
    GroupBy.APP: USES.c.app,
}
_APPS: Final = (
    select(USES.c.app)
    .distinct()
    .where(USES.c.account == bindparam("account"), USES.c.day == bindparam("day"))
    .limit(bindparam("limit"))
)


def _add(insert: Any) -> Any:
    written = insert(USES)
    return written.on_conflict_do_update(
        index_elements=list(_NAMED), set_={name: USES.c[name] + written.excluded[name] for name in COUNTED}
    )


_ADD: Final = {"sqlite": _add(sqlite.insert), "postgresql": _add(postgresql.insert)}


class SqlUses:
    """What was used, over a connection that is in a transaction."""

    _connection: Connection

    def add_use(self, use: Use) -> None:
        self._connection.execute(_ADD[self._connection.dialect.name], values_of(use))

    def apps_of(self, account_id: str, day: str, limit: int) -> frozenset[str]:
        wanted = {"account": account_id, "day": day, "limit": limit}
        return frozenset(self._connection.execute(_APPS, wanted).scalars())

    def uses(self, query: UseQuery, limit: int) -> tuple[UseSum, ...]:
        group = _GROUPS[query.group_by].label("group")
        sums = [func.sum(USES.c[name]).label(name) for name in COUNTED]
        chosen = (
            select(group, USES.c.service, *sums)
            .where(USES.c.day.between(query.first_day, query.last_day))
            .group_by(group, USES.c.service)
            .order_by(group, USES.c.service)
            .limit(limit)
        )
        if query.account is not None:
            chosen = chosen.where(USES.c.account == query.account)
        if query.key is not None:
            chosen = chosen.where(USES.c.key == query.key)
        return tuple(
            UseSum(**{**row._mapping, **{name: int(row._mapping[name]) for name in COUNTED}})
            for row in self._connection.execute(chosen)
        )
