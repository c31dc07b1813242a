"""The part of `SqlTables` that keeps people and their sessions."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, delete, func, select, update

from cxp2p_gateway.store.rows import Session, User
from cxp2p_gateway.store.schema import ACCOUNTS, SESSIONS, columns_of, values_of

_USER: Final = select(*columns_of(ACCOUNTS, User))
_SESSION: Final = select(*columns_of(SESSIONS, Session))
_BY_ID: Final = _USER.where(ACCOUNTS.c.id == bindparam("wanted"))
_BY_EMAIL: Final = _USER.where(ACCOUNTS.c.email == bindparam("wanted"))
_IN_ORDER: Final = _USER.order_by(ACCOUNTS.c.created_at_ms, ACCOUNTS.c.id)
_IDS: Final = select(ACCOUNTS.c.id).order_by(ACCOUNTS.c.created_at_ms, ACCOUNTS.c.id)
_REFERRED: Final = select(func.count()).select_from(ACCOUNTS).where(ACCOUNTS.c.referred_by == bindparam("wanted"))
_SESSION_OF: Final = _SESSION.where(SESSIONS.c.digest == bindparam("wanted"))


class SqlPeople:
    """People and sessions over a connection that is in a transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add_user(self, user: User) -> None:
        self._connection.execute(ACCOUNTS.insert(), values_of(user))

    def replace_user(self, user: User) -> None:
        values = {name: value for name, value in values_of(user).items() if name != "id"}
        self._connection.execute(update(ACCOUNTS).where(ACCOUNTS.c.id == user.id).values(**values))

    def user(self, user_id: str) -> User | None:
        row = self._one(_BY_ID, wanted=user_id)
        return User(**row._mapping) if row else None

    def user_by_email(self, email: str) -> User | None:
        row = self._one(_BY_EMAIL, wanted=email)
        return User(**row._mapping) if row else None

    def users(self, limit: int, offset: int) -> tuple[User, ...]:
        rows = self._connection.execute(_IN_ORDER.limit(limit).offset(offset))
        return tuple(User(**row._mapping) for row in rows)

    def user_count(self) -> int:
        return self._connection.execute(select(func.count()).select_from(ACCOUNTS)).scalar_one()

    def client_accounts(self) -> tuple[str, ...]:
        return tuple(self._connection.execute(_IDS).scalars())

    def referred_count(self, user_id: str) -> int:
        return self._connection.execute(_REFERRED, {"wanted": user_id}).scalar_one()

    def session(self, digest: bytes) -> Session | None:
        row = self._one(_SESSION_OF, wanted=digest)
        return Session(**row._mapping) if row else None

    def add_session(self, session: Session, kept_max: int) -> None:
        self._connection.execute(SESSIONS.insert(), values_of(session))
        kept = (
            select(SESSIONS.c.digest)
            .where(SESSIONS.c.account == session.account)
            .order_by(SESSIONS.c.created_at_ms.desc(), SESSIONS.c.digest)
            .limit(kept_max)
        )
        surplus = delete(SESSIONS).where(SESSIONS.c.account == session.account, SESSIONS.c.digest.not_in(kept))
        self._connection.execute(surplus)

    def end_session(self, digest: bytes) -> None:
        self._connection.execute(delete(SESSIONS).where(SESSIONS.c.digest == digest))

    def end_sessions(self, account_id: str) -> None:
        self._connection.execute(delete(SESSIONS).where(SESSIONS.c.account == account_id))

    def forget_sessions(self, wall_ms: int) -> int:
        return self._connection.execute(delete(SESSIONS).where(SESSIONS.c.expires_at_ms <= wall_ms)).rowcount

    def _one(self, query: Any, **wanted: object) -> Row[Any] | None:
        return self._connection.execute(query, wanted).first()
