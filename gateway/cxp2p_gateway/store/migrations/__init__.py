"""How the tables came to be as they are: steps that Alembic takes, each once for a database, oldest first."""

from __future__ import annotations

from typing import Final

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

FIRST: Final = "0001"  # as databases are that were made before steps were counted


def upgrade(connection: Connection) -> None:
    """Takes the steps that a database has not taken, in the transaction that the connection is in."""
    config = _config(connection)
    if step_of(connection) is None and "holds" in inspect(connection).get_table_names():
        command.stamp(config, FIRST)
    command.upgrade(config, "head")


def newest() -> str:
    """The step that this program knows as the last."""
    head = ScriptDirectory.from_config(_config(None)).get_current_head()
    assert head is not None
    return head


def is_known(step: str) -> bool:
    """Whether this program knows a step; a newer program's it does not."""
    return any(script.revision == step for script in ScriptDirectory.from_config(_config(None)).walk_revisions())


def step_of(connection: Connection) -> str | None:
    """The last step that a database has taken; None: nobody has counted."""
    if "alembic_version" not in inspect(connection).get_table_names():
        return None
    step: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return step


def _config(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", "cxp2p_gateway.store:migrations")
    config.attributes["connection"] = connection
    return config
