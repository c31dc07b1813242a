"""Whether an answer is what its JSON Schema says. Schemas and answers are strangers': the work is done elsewhere.

`schemas.apart` does it in processes that can be killed, and is what a gateway uses. `Here` is its twin without limits
of time, for tests in virtual time.
"""

from __future__ import annotations

from typing import Protocol

import trio

from cxp2p.errors import CxError
from cxp2p_gateway.schemas.checking import Checker


class Uncheckable(CxError):
    """Nobody can tell within the limits of time and room whether an answer is of this schema."""


class CheckerDown(CxError):
    """Nothing can be checked right now: there is no room for a checker, or it does not start. See the log."""


class Schemas(Protocol):
    """Looks at schemas, and at answers that should follow them. All of them are JSON text."""

    async def refusal(self, schema: str) -> str:
        """Why no answer can be checked against this schema, in words for its author; "" if it is fine.

        Raises CheckerDown.
        """

    async def breach(self, schema: str, answer: str) -> str:
        """What is wrong with an answer, without quoting it; "" if it is what the schema says.

        Raises Uncheckable, CheckerDown.
        """


class Here:
    """`Schemas` in this process: a hostile schema stops it."""

    def __init__(self) -> None:
        self._checker = Checker()

    async def refusal(self, schema: str) -> str:
        await trio.lowlevel.checkpoint()
        return self._checker.refusal(schema)

    async def breach(self, schema: str, answer: str) -> str:
        await trio.lowlevel.checkpoint()
        return self._checker.breach(schema, answer)
