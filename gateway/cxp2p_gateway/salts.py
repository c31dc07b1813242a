"""What keeps accounts apart in the nodes' prefix caches: whoever shares one can time what others have asked."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from typing import Final

from cxp2p.records import ChatJob, Job

SALT_BYTES: Final = 16  # enough that nobody guesses another account's


class CacheSalts:
    """A salt for each account, the same for as long as `secret` is. It tells nobody whose it is."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def of(self, account: str) -> bytes:
        """The account's salt."""
        return hmac.digest(self._secret, account.encode(), hashlib.sha256)[:SALT_BYTES]

    def salted(self, job: Job, account: str) -> Job:
        """The job as it goes to a node. Only chats have prefixes to share."""
        return replace(job, cache_salt=self.of(account)) if isinstance(job, ChatJob) else job
