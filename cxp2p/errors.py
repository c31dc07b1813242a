"""Every error of the library, and whose fault it is.

Raise one of these at the edge where the fault is seen; the docstring is the text a person can act on. A dependency's
own errors are translated once, where that dependency is called, and never travel further.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cxp2p.records import FailureCode, RefusalCode


def one_line(words: str, chars_max: int = 512) -> str:
    """A stranger's words for a log or an error: printable, and not long."""
    return "".join(letter if letter.isprintable() else " " for letter in words[:chars_max])


class CxError(Exception):
    """The parent of every error that cxp2p raises on purpose."""


class LocalProtocolError(CxError):
    """This program tried to break the protocol. It is a bug here: please report it."""


class RemoteProtocolError(CxError):
    """The peer broke the protocol. Drop the conversation; the peer loses standing."""


class ReceiptInvalid(RemoteProtocolError):
    """An order, receipt or countersign does not hold. `evidence` keeps the signed bytes that prove it."""

    def __init__(self, message: str, evidence: bytes = b"") -> None:
        super().__init__(message)
        self.evidence = evidence


class EpochInvalid(RemoteProtocolError):
    """A published epoch, a proof, or the receipts in them do not hold. `evidence` keeps the signed bytes, if any."""

    def __init__(self, message: str, evidence: bytes = b"") -> None:
        super().__init__(message)
        self.evidence = evidence


class PeerUnreachable(CxError):
    """The peer could not be reached, or the connection to it broke. Nobody's fault: try the next one."""


class JobRefused(CxError):
    """The node said no before it did any work. Try another node, or come back after `retry_after_ms`."""

    def __init__(self, code: RefusalCode, reason: str, retry_after_ms: int = 0) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason
        self.retry_after_ms = retry_after_ms


class JobFailed(CxError):
    """The node took the job and did not finish it. `limit` and `actual` carry the two numbers, where there are two."""

    def __init__(self, code: FailureCode, reason: str, limit: int = 0, actual: int = 0) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason
        self.limit = limit
        self.actual = actual


class AnswerRefused(CxError):
    """The answer is whole, and not what the job demanded: its asker's own check says so. It costs nothing."""


class NoNode(CxError):
    """No live node offers this model. See `cxp2p offers` for what the network serves now."""


class InsufficientCredit(CxError):
    """The account cannot cover what the job may cost at most."""


class IdentityError(CxError):
    """The key file cannot be used; it was left as it was."""


class SettingsError(CxError):
    """A setting is wrong. The message names the setting and what was expected."""
