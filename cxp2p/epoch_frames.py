"""What is asked and answered over `/cxp2p/epoch/1`. Records, as those of `cxp2p.records`."""

from __future__ import annotations

from cxp2p.kinds import Blob, Digest, Natural, PeerId, Reason, Word, record


@record
class RootWanted:
    """ "Which root of this gateway do you have?": of one epoch, or the newest. Answered by RootSent."""

    gateway: PeerId
    epoch: Natural | None


@record
class FileWanted:
    """A whole epoch of a gateway: RootSent, then a PairSent for each receipt that it counts, in order."""

    gateway: PeerId
    epoch: Natural


@record
class ProofWanted:
    """Where a receipt stands, by its SHA-256. Answered by InclusionSent."""

    receipt: Digest


@record
class RootSent:
    """The envelope of a root."""

    envelope: Blob


@record
class PairSent:
    """The envelopes of a receipt and its countersign."""

    receipt: Blob
    countersign: Blob


@record
class InclusionSent:
    """An `Inclusion`, encoded."""

    inclusion: Blob


class AbsentCode(Word):
    """Why there is no answer: nothing is known of it; it is not closed yet; it is no longer kept; come back later."""

    UNKNOWN = "unknown"
    OPEN = "open"
    GONE = "gone"
    BUSY = "busy"


@record
class EpochAbsent:
    """Instead of an answer."""

    code: AbsentCode
    reason: Reason
    retry_after_ms: Natural
