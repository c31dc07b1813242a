"""What receipts cost: the signed papers of a job on one core, and the root and proofs of an hour of a million receipts.

The peer of a job's papers is what no program can do without: its three signatures and their checks, bare Ed25519 of
libsodium over as many bytes. The peer of the tree is RFC 9162's over the same leaves, which sums nothing. Rates
are of the process's own CPU time, so that a busy machine changes them less.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from hashlib import sha256

from nacl.signing import SigningKey

from benchmarks.figures import Figure, Goal, Rate
from benchmarks.wire import RECEIPT, SEED
from cxp2p.epochs import open_entry
from cxp2p.identity import Kind, identity_from_seed, open_envelope
from cxp2p.merkle import SumTree, check_proof, leaf_hash, root_of_hashes, sum_leaf
from cxp2p.receipts import Delivered, Lane, Terms, check_receipt, digest, make_order
from cxp2p.records import Capability, Countersign, Load, Order, Prices, Receipt, Service
from cxp2p.wire import decode, encode

LEAVES = 1_000_000
PROOFS = 200
ROUNDS = 5
PEER = identity_from_seed(SEED).peer
CONTENT = bytes(1100)  # a receipt and a countersign, as they are sent
JOB_MS_MAX = 0.15
TREE_S_MAX = 20.0
TERMS = Terms(
    gateway=PEER,
    node=PEER,
    capability=Capability(
        service=Service.CHAT,
        model="smollm2:135m",
        model_digest=RECEIPT.model_digest,
        runtime=RECEIPT.runtime,
        context_units=2048,
        output_units_max=1024,
        prices=Prices(input=20_000, output=60_000),
        slots=4,
        queue_max=32,
        load=Load(running=1, queued=0, first_piece_ms=80, units_per_s=150, loading_ms=0),
    ),
    request_commit=RECEIPT.request_commit,
    max_in=600,
    max_out=128,
    seed=RECEIPT.seed,
)


def measure(seconds: float) -> list[Figure]:
    """Milliseconds of CPU for a job's papers, in about `seconds`; then the tree, however long it takes."""
    return [*_papers(seconds), *_tree()]


def _papers(seconds: float) -> list[Figure]:
    job = _Job()
    share = seconds / (5 * ROUNDS * 2)
    parts = (
        ("order, receipt, countersign: made and checked, ms", job.all, lambda: _bare(3), Goal(value_max=JOB_MS_MAX)),
        ("the gateway's part of it, ms", job.of_gateway, lambda: _bare(2, checks=1), None),
        ("the node's part of it, ms", job.of_node, lambda: _bare(1, checks=2), None),
        ("a receipt of a published epoch checked, ms", job.audit, lambda: _bare(0, checks=2), None),
    )
    return [_cpu_ms(name, ours, peer, goal, share) for name, ours, peer, goal in parts]


class _Job:
    """One job's papers, made and checked as asker and node do it."""

    def __init__(self) -> None:
        self._identity = identity_from_seed(SEED)
        self._lane = Lane(lane=b"l" * 16)
        self._order = make_order(TERMS, self._lane, b"o" * 16, 1_800_000_000_000)
        self._order_envelope = self._sealed_order()
        self._receipt_envelope = self._sealed_receipt()
        self._countersign_envelope = self._countersigned()

    def all(self) -> None:
        self.of_gateway()
        self.of_node()

    def of_gateway(self) -> None:
        self._sealed_order()
        self._countersigned()

    def of_node(self) -> None:
        decode(Order, open_envelope(Kind.ORDER, self._order_envelope).body)
        self._sealed_receipt()
        decode(Countersign, open_envelope(Kind.COUNTERSIGN, self._countersign_envelope).body)

    def audit(self) -> None:
        open_entry(self._receipt_envelope, self._countersign_envelope)

    def _sealed_order(self) -> bytes:
        order = make_order(TERMS, self._lane, b"o" * 16, 1_800_000_000_000)
        return self._identity.seal(Kind.ORDER, encode(order))

    def _sealed_receipt(self) -> bytes:
        order, owed = self._order, 18
        receipt = Receipt(
            order_hash=digest(self._order_envelope),
            gateway=PEER,
            node=PEER,
            owner="",
            lane=order.lane,
            seq=order.seq,
            epoch=order.epoch,
            service=order.service,
            model_digest=order.model_digest,
            runtime=RECEIPT.runtime,
            in_units=RECEIPT.in_units,
            cached_units=0,
            out_units=RECEIPT.out_units,
            t_accept_ms=RECEIPT.t_accept_ms,
            t_first_ms=RECEIPT.t_first_ms,
            t_end_ms=RECEIPT.t_end_ms,
            finish=RECEIPT.finish,
            request_commit=order.request_commit,
            output_commit=RECEIPT.output_commit,
            seed=order.seed,
            resume_of=None,
            offset=None,
            charge=owed,
            cum_charge=owed,
            prev_receipt=None,
        )
        return self._identity.seal(Kind.RECEIPT, encode(receipt))

    def _countersigned(self) -> bytes:
        opened = open_envelope(Kind.RECEIPT, self._receipt_envelope)
        receipt = decode(Receipt, opened.body)
        got = Delivered(units=RECEIPT.out_units, commit=RECEIPT.output_commit)
        answer = check_receipt(
            self._order, self._order_envelope, self._lane, opened.peer, receipt, self._receipt_envelope, got
        )
        assert answer.charge == receipt.charge, answer.reason
        return self._identity.seal(Kind.COUNTERSIGN, encode(answer))


_KEY = SigningKey(SEED)
_BODY = encode(RECEIPT)
_SIGNATURE = _KEY.sign(_BODY).signature


def _bare(signatures: int, checks: int | None = None) -> None:
    for _ in range(signatures):
        _KEY.sign(_BODY)
    for _ in range(signatures if checks is None else checks):
        _KEY.verify_key.verify(_BODY, _SIGNATURE)


def _cpu_ms(name: str, ours: Callable[[], None], peer: Callable[[], None], goal: Goal | None, seconds: float) -> Figure:
    rounds: dict[Callable[[], None], list[float]] = {ours: [], peer: []}
    for _ in range(ROUNDS):
        for work, seen in rounds.items():
            seen.append(_each_ms(work, seconds))
    mine, theirs = Rate.of(rounds[ours]), Rate.of(rounds[peer])
    return Figure(name=name, ours=mine, peer=theirs, peer_is="bare Ed25519, libsodium", goal=goal)


def _each_ms(work: Callable[[], None], seconds: float) -> float:
    count, started = 0, time.process_time()
    while (took := time.process_time() - started) < seconds or not count:
        work()
        count += 1
    return took / count * 1000


def _tree() -> list[Figure]:
    started = time.process_time()
    tree = SumTree(sum_leaf(number, CONTENT) for number in range(LEAVES))
    root = tree.root
    ours = time.process_time() - started
    started = time.process_time()
    root_of_hashes([leaf_hash(CONTENT) for _ in range(LEAVES)])
    peer = time.process_time() - started
    return [
        Figure(
            name=f"root over {LEAVES:,} receipts, with all proofs, s",
            ours=Rate.of([ours]),
            peer=Rate.of([peer]),
            peer_is="RFC 9162, no sums, no proofs",
            goal=Goal(value_max=TREE_S_MAX),
        ),
        _proofs(tree, root.count),
    ]


def _proofs(tree: SumTree, size: int) -> Figure:
    picked = [number * size // PROOFS for number in range(PROOFS)]
    root = tree.root

    def check(index: int) -> None:
        check_proof(root, sum_leaf(index, CONTENT), tree.proof(index))

    ours = [_timed_ms(check, picked) for _ in range(ROUNDS)]
    peer = [_timed_ms(_hashes, picked) for _ in range(ROUNDS)]
    name = f"a proof at {size:,} receipts given and checked, ms"
    return Figure(name=name, ours=Rate.of(ours), peer=Rate.of(peer), peer_is="its 20 hashes")


def _hashes(_: int) -> None:
    for _ in range(20):
        sha256(CONTENT[:97]).digest()


def _timed_ms(work: Callable[[int], None], picked: Sequence[int]) -> float:
    started = time.process_time()
    for index in picked:
        work(index)
    return (time.process_time() - started) / len(picked) * 1000
