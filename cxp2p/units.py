"""What a job may take in and give, in units of its service, and what it gave: counted and committed. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from cxp2p import protocols
from cxp2p.errors import RemoteProtocolError
from cxp2p.merkle import leaf_hash, merkle_root, root_of_hashes
from cxp2p.records import Capability, ChatJob, EmbedJob, Job, Piece, ScrapeJob, Service, SpeechJob

TEMPLATE_UNITS_MAX = 512  # what a chat template may add to a prompt: role marks and a default system message
MARKS_MAX = 8  # what a tokenizer may add to an input that becomes a vector: its beginning, its end
OUTPUT_UNITS_MAX = 65_536  # of one order, whatever a node offers: what its answer may fill of our memory
# What a node may send for each unit ordered: a token, its part of a frame, and its alternatives if they were asked for.
BYTES_PER_TOKEN_MAX = 192
LOGPROBS_BYTES_PER_TOKEN_MAX = 2048
BYTES_PER_VECTOR_MAX = 33 * 1024  # 8,192 numbers and a frame
AUDIO_MS_PER_LETTER_MAX = 800  # at speed 1; slow speech is about 90, and 111,111,111,111 is read out as words: 600
AUDIO_MS_SPARE = 5_000
BYTES_PER_AUDIO_MS_MAX = 46  # 22.05 samples of 16 bits, and a part of a frame
BYTES_PER_PAGE_MAX = 4 * 1024 * 1024  # of Markdown or HTML, after 10 MiB of page
BYTES_SPARE = protocols.FRAME_BYTES_MAX


def input_units_max(job: Job, request: bytes, context_units: int) -> int:
    """The most input units of a job, sent as `request`: no tokenizer makes more tokens than there are bytes."""
    match job:
        case ChatJob():
            return min(len(request) + TEMPLATE_UNITS_MAX, context_units)
        case EmbedJob():
            return sum(min(_size(each) + MARKS_MAX, context_units) for each in job.inputs)
        case SpeechJob():
            return len(job.text)
        case ScrapeJob():
            return len(job.urls)


def output_units_max(job: Job, capability: Capability) -> int:
    """The most output units of a job that are ordered from a node that offers `capability`."""
    match job:
        case ChatJob():
            room = min(capability.output_units_max, capability.context_units, OUTPUT_UNITS_MAX)
            return min(job.max_tokens or room, room)
        case EmbedJob():
            return len(job.inputs)
        case SpeechJob():
            return audio_ms_max(len(job.text), job.speed)
        case ScrapeJob():
            return len(job.urls)


def audio_ms_max(letters: int, speed: float) -> int:
    """How long a text of so many letters may be when it is read aloud."""
    return AUDIO_MS_SPARE + round(letters * AUDIO_MS_PER_LETTER_MAX / speed)


def answer_bytes_max(job: Job, max_out: int) -> int:
    """How many bytes a node may send for an order of `max_out` units."""
    match job:
        case ChatJob():
            each = BYTES_PER_TOKEN_MAX if job.logprobs is None else LOGPROBS_BYTES_PER_TOKEN_MAX
        case EmbedJob():
            each = BYTES_PER_VECTOR_MAX
        case SpeechJob():
            each = BYTES_PER_AUDIO_MS_MAX
        case ScrapeJob():
            each = BYTES_PER_PAGE_MAX
    return BYTES_SPARE + max_out * each


def longest_input_bytes(job: Job, request: bytes) -> int:
    """The size of what must fit into a model's context at once."""
    return max(_size(each) for each in job.inputs) if isinstance(job, EmbedJob) else len(request)


def _size(each: str | Sequence[int]) -> int:
    return len(each.encode(errors="replace")) if isinstance(each, str) else len(each)


# What was given.


def units_of(piece: Piece) -> int:
    """What a piece is worth."""
    return len(piece.token_ids) + piece.units


def output_commit(token_ids: Sequence[int]) -> bytes:
    """Merkle root of a text: a leaf holds 32 token ids, each as 4 bytes, big-endian."""
    step = protocols.OUTPUT_LEAF_TOKENS
    groups = (token_ids[start : start + step] for start in range(0, len(token_ids), step))
    return merkle_root([b"".join(token.to_bytes(4, "big") for token in group) for group in groups])


class Output:
    """What one job has given so far, as both sides count it: of a chat the token ids, of any other the bytes."""

    def __init__(self, service: Service) -> None:
        self.units = 0
        self.token_ids: list[int] = []
        self._is_text = service is Service.CHAT
        self._leaf = bytearray()
        self._leaf_hashes: list[bytes] = []

    def add(self, piece: Piece) -> None:
        """One more piece. Raises RemoteProtocolError for one that is not of this service."""
        if piece.data or piece.units if self._is_text else piece.token_ids or piece.text:
            raise RemoteProtocolError("a piece of another kind than the job")
        self.units += units_of(piece)
        self.token_ids.extend(piece.token_ids)
        self._leaf += piece.data
        size = protocols.OUTPUT_LEAF_BYTES
        while len(self._leaf) >= size:
            self._leaf_hashes.append(leaf_hash(bytes(self._leaf[:size])))
            del self._leaf[:size]

    def commit(self) -> bytes:
        """Merkle root over token ids, see `output_commit`, or over leaves of 64 KiB of the data."""
        if self._is_text:
            return output_commit(self.token_ids)
        last = [leaf_hash(bytes(self._leaf))] if self._leaf else []
        return root_of_hashes([*self._leaf_hashes, *last])
