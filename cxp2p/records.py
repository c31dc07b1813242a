"""The vocabulary: frozen values without behaviour. Money in µcredits, wall time in ms, prices per million units.

Every field is bounded here, because each of these can come from a stranger. A record that is signed holds no float.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le, Len
from pydantic import Strict

from cxp2p.jobs import JOB_OF as JOB_OF
from cxp2p.jobs import Alternative as Alternative
from cxp2p.jobs import AnswerForm as AnswerForm
from cxp2p.jobs import CallPart as CallPart
from cxp2p.jobs import ChatJob as ChatJob
from cxp2p.jobs import EmbedJob as EmbedJob
from cxp2p.jobs import Job as Job
from cxp2p.jobs import Logprob as Logprob
from cxp2p.jobs import Message as Message
from cxp2p.jobs import PageFault as PageFault
from cxp2p.jobs import PageForm as PageForm
from cxp2p.jobs import Render as Render
from cxp2p.jobs import Role as Role
from cxp2p.jobs import Sampling as Sampling
from cxp2p.jobs import ScrapedPage as ScrapedPage
from cxp2p.jobs import ScrapeJob as ScrapeJob
from cxp2p.jobs import Service as Service
from cxp2p.jobs import SpeechJob as SpeechJob
from cxp2p.jobs import Tool as Tool
from cxp2p.jobs import ToolCall as ToolCall
from cxp2p.jobs import ToolMode as ToolMode
from cxp2p.jobs import service_of as service_of
from cxp2p.kinds import (
    Address,
    Blob,
    Bytes16,
    Count,
    Digest,
    Flag,
    Label,
    Name,
    Natural,
    Owner,
    PeerId,
    Price,
    Reason,
    Text,
    TokenId,
    Word,
    record,
)

# What a node offers.


@record
class Prices:
    """µcredits per million units of input and of output."""

    input: Price
    output: Price


@record
class Load:
    """How busy a capability is now. `first_piece_ms`, `units_per_s`: the node's own recent medians, 0 if unknown.

    `loading_ms`: how long it takes until the model is in memory; 0: it is there.
    """

    running: Count
    queued: Count
    first_piece_ms: Count
    units_per_s: Count
    loading_ms: Count


@record
class Capability:
    """One model that a node serves. `slots` jobs run at once, `queue_max` more may wait."""

    service: Service
    model: Label
    model_digest: Digest
    runtime: Label
    context_units: Count
    output_units_max: Count
    prices: Prices
    slots: Count
    queue_max: Count
    load: Load


@record
class Offer:
    """The signed capability record of a node: what it does, at what price, how loaded it is, until when.

    `sequence` grows with every new offer of this peer; a lower one is never believed after a higher one.
    """

    peer: PeerId
    sequence: Natural
    issued_at_ms: Natural
    expires_at_ms: Natural
    addresses: Annotated[tuple[Address, ...], Len(0, 16)]
    agent: Label
    owner: Owner
    draining: Flag
    capabilities: Annotated[tuple[Capability, ...], Len(0, 60)]


# The conversation about one job: /cxp2p/job/1.


class RefusalCode(Word):
    """Why a node says no before any work."""

    ORDER_INVALID = "order_invalid"  # forged, mis-addressed, expired, replayed, commitment wrong
    LANE_UNKNOWN = "lane_unknown"  # the node does not know this lane (it restarted): open a new one
    PRICE_TOO_LOW = "price_too_low"
    EXPOSURE = "exposure"  # too much uncountersigned work for this gateway
    MODEL_UNKNOWN = "model_unknown"
    REQUEST_INVALID = "request_invalid"
    BUSY = "busy"  # queue full: `retry_after_ms` says when to come back
    DRAINING = "draining"


class FailureCode(Word):
    """Why a node that took a job did not finish it."""

    ENGINE_DIED = "engine_died"
    CONTEXT_LENGTH = "context_length"  # `limit` and `actual` in tokens
    REQUEST_UNSUPPORTED = "request_unsupported"
    SCHEMA_INVALID = "schema_invalid"  # a JSON Schema that this node's engine cannot hold an answer to
    ASKER_TOO_SLOW = "asker_too_slow"
    TIMEOUT = "timeout"
    INTERNAL = "internal"


class Finish(Word):
    """How a job ended, in its receipt."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    HANDOFF = "handoff"
    ERROR = "error"
    TIMEOUT = "timeout"


@record
class Ask:
    """Asker → node, first. The order's envelope, and the request bytes that the order commits to with `salt`."""

    order: Blob
    salt: Bytes16
    request: Blob


@record
class Accepted:
    """Node → asker: the job is taken; `queued` jobs are ahead of it."""

    queued: Count


@record
class Refusal:
    """Node → asker: no, and no work was done."""

    code: RefusalCode
    reason: Reason
    retry_after_ms: Count


@record
class Piece:
    """Node → asker: a streamed part of the result, and the token ids it is made of.

    `text` is of the answer itself, `reasoning` of what the model thought before it. `logprobs`, if they were asked for,
    are of the token ids of this piece that are not the end mark. An answer that is no text is `data`, and `units` of
    work that it is worth.
    """

    text: Text = ""
    token_ids: Annotated[tuple[TokenId, ...], Len(0, 4096)] = ()
    reasoning: Text = ""
    calls: Annotated[tuple[CallPart, ...], Len(0, 256)] = ()
    logprobs: Annotated[tuple[Logprob, ...], Len(0, 4096)] = ()
    data: Blob = b""
    units: Count = 0


@record
class Cancel:
    """Asker → node: stop now; send the receipt for what was delivered."""


@record
class Failure:
    """Node → asker: the job was taken and cannot be finished. It costs nothing."""

    code: FailureCode
    reason: Reason
    limit: Count
    actual: Count


@record
class ReceiptSent:
    """Node → asker, last: the receipt's envelope."""

    envelope: Blob


@record
class CountersignSent:
    """Asker → node, last; or the answer to a claim: the countersign's envelope."""

    envelope: Blob


@record
class VoucherSent:
    """Asker → node, while a job runs: the voucher's envelope."""

    envelope: Blob


# What was not countersigned: /cxp2p/claim/1.


@record
class ClaimSent:
    """Node → gateway: the envelopes of a receipt that nobody answered, of its order, and of its last voucher."""

    order: Blob
    receipt: Blob
    voucher: Blob | None


@record
class ClaimRefused:
    """Gateway → node: no countersign. `retry_after_ms`: when to ask again; 0: never."""

    reason: Reason
    retry_after_ms: Count


# Discovery: /cxp2p/offers/1 and /cxp2p/offer/1.


@record
class OffersWanted:
    """Asks a peer for fresh offers it knows. `service` None: any service; `model` None: any model."""

    service: Service | None
    model: Name | None
    limit: Annotated[int, Strict(), Ge(1), Le(32)]


@record
class OffersKnown:
    """The answer: envelopes of offers, newest first."""

    envelopes: Annotated[tuple[Blob, ...], Len(0, 32)]


@record
class OfferSent:
    """One envelope of the sender's own newest offer; on a watch stream it is also the heartbeat."""

    envelope: Blob


# What is signed about a job.


@record
class Order:
    """The asker's signed commitment to pay for a job. Names and rules: PROTOCOL.md, Orders."""

    order_id: Bytes16
    gateway: PeerId
    node: PeerId
    lane: Bytes16
    seq: Natural
    epoch: Natural
    service: Service
    model: Name
    model_digest: Digest
    request_commit: Digest
    max_in: Natural
    max_out: Natural
    prices: Prices
    max_charge: Natural
    expires_at_ms: Natural
    seed: Natural
    prev_receipt: Digest | None
    cum_authorised: Natural
    resume_of: Bytes16 | None
    offset: Natural | None


@record
class Voucher:
    """The asker's signed word, while a job runs, that its lane is worth so much by now."""

    gateway: PeerId
    node: PeerId
    lane: Bytes16
    seq: Natural
    cum_amount: Natural


@record
class Receipt:
    """The node's signed account of what it did for one order."""

    order_hash: Digest
    gateway: PeerId
    node: PeerId
    owner: Owner
    lane: Bytes16
    seq: Natural
    epoch: Natural
    service: Service
    model_digest: Digest
    runtime: Label
    in_units: Natural
    cached_units: Natural
    out_units: Natural
    t_accept_ms: Natural
    t_first_ms: Natural
    t_end_ms: Natural
    finish: Finish
    request_commit: Digest
    output_commit: Digest
    seed: Natural
    resume_of: Bytes16 | None
    offset: Natural | None
    charge: Natural
    cum_charge: Natural
    prev_receipt: Digest | None


class Verdict(Word):
    """What the asker says of a receipt."""

    ACCEPTED = "accepted"
    ADJUSTED = "adjusted"
    DISPUTED = "disputed"


@record
class Countersign:
    """The asker's signed agreement with a receipt, or its dispute, with its own count."""

    receipt_hash: Digest
    verdict: Verdict
    reason: Reason
    in_units: Natural
    out_units: Natural
    charge: Natural


@record
class EpochRoot:
    """A gateway's signed account of an hour: the root over all receipts that count for it, and their sum."""

    gateway: PeerId
    epoch: Natural
    root: Digest
    sum: Natural
    count: Natural
    prev_root: Digest | None
    rules_hash: Digest


@record
class Usage:
    """What an engine counted for one job, in the units of its service."""

    in_units: Natural
    cached_units: Natural
    out_units: Natural
    finish: Finish
