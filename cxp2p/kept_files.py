"""What people keep in small files, checked as it is read: receipts of a gateway, inclusions, rules, verdicts. Pure."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from cxp2p.epochs import Entry, Inclusion, check_inclusion, open_entry, open_receipt, open_signed
from cxp2p.errors import CxError, EpochInvalid, RemoteProtocolError, one_line
from cxp2p.identity import Kind
from cxp2p.receipts import charge_owed, digest, other_field
from cxp2p.records import Countersign, EpochRoot, Order, Receipt, Verdict
from cxp2p.rewards import Audit, Rules
from cxp2p.wire import decode

T = TypeVar("T")
RECEIPTS_MAX = 256  # of one generation: 8 answers, each asked for a few times


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A receipt that holds, and what else of its job was in the file and holds with it."""

    receipt: Receipt
    receipt_envelope: bytes
    order: Order | None = None
    countersign: Countersign | None = None
    root: EpochRoot | None = None

    def checked(self) -> list[str]:
        """What was found to be true, in words."""
        return [
            "signed by its node",
            *(["it is about the gateway's order"] if self.order else []),
            *([f"countersigned by its gateway: {self.countersign.verdict}"] if self.countersign else []),
            *([f"counted under the root of epoch {self.root.epoch}"] if self.root else []),
        ]

    def facts(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        parts = {"order": self.order, "receipt": self.receipt, "countersign": self.countersign, "root": self.root}
        told = {name: jsonable(asdict(part)) for name, part in parts.items() if part is not None}
        return {"sha256": digest(self.receipt_envelope).hex(), **told}


def jsonable(value: Any) -> Any:
    """A value as JSON can hold it: bytes in hexadecimal."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {name: jsonable(each) for name, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [jsonable(each) for each in value]
    return value


def settlements_in(data: bytes) -> list[Settled]:
    """The receipts in a file: a gateway's JSON, an inclusion, or one envelope. Raises EpochInvalid, with the reason."""
    if data.lstrip()[:1] == b"{":
        return _in_json(data)
    try:
        inclusion = decode(Inclusion, data)
    except RemoteProtocolError:
        return [Settled(receipt=open_receipt(data), receipt_envelope=data)]
    root, entry = check_inclusion(inclusion)
    return [_settled(entry, root=root)]


def _in_json(data: bytes) -> list[Settled]:
    told = _json(data)
    jobs = told.get("data", [told])
    if not isinstance(jobs, list) or not 0 < len(jobs) <= RECEIPTS_MAX:
        raise EpochInvalid(f"data is no list of 1 to {RECEIPTS_MAX} receipts")
    settled = [_job(job, f"data.{number}.") for number, job in enumerate(jobs)]
    if "data" in told and _job(told, "") not in settled:
        raise EpochInvalid("the receipt in front is none of those in data")
    return settled


def _job(job: object, where: str) -> Settled:
    if not isinstance(job, dict):
        raise EpochInvalid(f"{where[:-1]} is no object")
    names = [name for name in ("order", "countersign") if name in job]
    envelopes = {name: _envelope(job.get(name), where + name) for name in ("receipt", *names)}
    receipt = open_receipt(envelopes["receipt"])
    order = countersign = None
    if "countersign" in envelopes:
        countersign = open_entry(envelopes["receipt"], envelopes["countersign"]).countersign
    if "order" in envelopes:
        order = _order(envelopes["order"], receipt)
    if order is not None and (countersign is None or countersign.verdict is Verdict.ACCEPTED):
        _check_charge(order, receipt, envelopes["receipt"])
    root = _counted_under(job, where, envelopes)
    settled = Settled(
        receipt=receipt, receipt_envelope=envelopes["receipt"], order=order, countersign=countersign, root=root
    )
    facts = settled.facts()
    for name in envelopes:
        if job[name].get("fields", facts[name]) != facts[name]:
            raise EpochInvalid(f"{where}{name}.fields is not what was signed")
    return settled


def _counted_under(job: dict[str, Any], where: str, envelopes: Mapping[str, bytes]) -> EpochRoot | None:
    """The root that counts it, if an inclusion is told beside it."""
    if job.get("inclusion") is None:
        return None
    try:
        inclusion = decode(Inclusion, _base64(job["inclusion"], f"{where}inclusion"))
    except EpochInvalid:
        raise
    except RemoteProtocolError as error:
        raise EpochInvalid(f"{where}inclusion: {error}") from None
    root, _ = check_inclusion(inclusion)
    place = inclusion.place
    if (place.receipt, place.countersign) != (envelopes["receipt"], envelopes.get("countersign")):
        raise EpochInvalid(f"{where}inclusion is of another receipt, or of another countersign")
    if "root" in job and _envelope(job["root"], f"{where}root") != inclusion.root:
        raise EpochInvalid(f"{where}root is not the one of the inclusion")
    return root


def _order(envelope: bytes, receipt: Receipt) -> Order:
    signer, order = open_signed(Kind.ORDER, Order, envelope)
    if signer != order.gateway:
        raise EpochInvalid("the order is not signed by its gateway", envelope)
    if receipt.order_hash != digest(envelope):
        raise EpochInvalid("the receipt is about another order", envelope)
    if name := other_field(order, receipt):
        raise EpochInvalid(f"the receipt's {name} is not the order's", envelope)
    return order


def _check_charge(order: Order, receipt: Receipt, evidence: bytes) -> None:
    owed = charge_owed(order.prices, receipt.finish, receipt.in_units, receipt.out_units)
    if receipt.charge != owed:
        raise EpochInvalid(f"charge is {receipt.charge}, at the order's prices {owed} is owed", evidence)


def _settled(entry: Entry, root: EpochRoot) -> Settled:
    return Settled(
        receipt=entry.receipt, receipt_envelope=entry.receipt_envelope, countersign=entry.countersign, root=root
    )


def _envelope(part: object, where: str) -> bytes:
    return _base64(part.get("envelope") if isinstance(part, dict) else None, f"{where}.envelope")


def _base64(text: object, where: str) -> bytes:
    if not isinstance(text, str):
        raise EpochInvalid(f"{where} is missing, expected base64")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise EpochInvalid(f"{where} is no base64") from None
    if base64.b64encode(data).decode() != text:  # bits after the end that no decoder looks at
        raise EpochInvalid(f"{where} is no base64 that an encoder makes")
    return data


def _json(data: bytes) -> Any:
    try:
        told = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise EpochInvalid(f"not valid JSON: {one_line(str(error), 120)}") from None
    return told


# Rules and verdicts.


def rules_in(data: bytes) -> Rules:
    """The rules in JSON, digests in hexadecimal. Raises CxError, which names the field."""
    told = _json(data)
    models = told.get("models") if isinstance(told, dict) else None
    if isinstance(models, list):
        told["models"] = [_with_bytes(each, "model_digest", f"models.{number}") for number, each in enumerate(models)]
    return _valid(Rules, told)


def audits_in(data: bytes) -> list[Audit]:
    """Verdicts in JSON: a list of `{"receipt": HASH, "valid": BOOL}`. Raises CxError, which names the field."""
    told = _json(data)
    if not isinstance(told, list):
        raise CxError('the verdicts are no list of {"receipt": HASH, "valid": BOOL}')
    audits = []
    for number, each in enumerate(told):
        fields = _with_bytes(each, "receipt", str(number))
        if set(fields) != {"receipt", "valid"} or not isinstance(fields["valid"], bool) or len(fields["receipt"]) != 32:
            raise CxError(f"{number}: expected receipt, a hash of 64 hexadecimal digits, and valid, true or false")
        audits.append(Audit(fields["receipt"], fields["valid"]))
    return audits


def _with_bytes(value: object, name: str, where: str) -> dict[str, Any]:
    text = value.get(name) if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(text, str):
        raise CxError(f"{where}.{name} is missing, expected hexadecimal digits")
    try:
        return {**value, name: bytes.fromhex(text)}
    except ValueError:
        raise CxError(f"{where}.{name} is {one_line(text, 80)!r}, expected hexadecimal digits") from None


def _valid(kind: type[T], told: object) -> T:
    try:
        made: T = TypeAdapter(kind).validate_python(told)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise CxError(f"{one_line('.'.join(map(str, first['loc'])), 120)}: {first['msg']}") from None
    return made
