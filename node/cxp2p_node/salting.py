"""What keeps askers apart in this node's prefix caches. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from cxp2p.records import ChatJob, Job


def salted(job: Job, asker: str) -> Job:
    """The job as engines get it: what two askers bring is never shared, also where both use the same salt, or none.

    Whoever shares a cache can time what others have asked.
    """
    if not isinstance(job, ChatJob):
        return job
    salt = hashlib.sha256(asker.encode() + b"\0" + job.cache_salt).digest()
    return replace(job, cache_salt=salt)
