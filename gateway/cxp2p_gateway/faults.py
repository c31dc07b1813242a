"""Every way a request can fail, in one table: condition -> status, type, code, text, headers; and its two renderings.

The only module that knows HTTP statuses of errors. The texts that the user guide documents stand here verbatim.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from cxp2p.errors import CxError, InsufficientCredit, JobFailed, JobRefused, LocalProtocolError, NoNode
from cxp2p.records import FailureCode, RefusalCode, Service
from cxp2p_gateway.asking import KeyEnded, KeyForbids, Limit, Overloaded, RateLimited
from cxp2p_gateway.dialects import Base as Base
from cxp2p_gateway.dialects import Dialect as Dialect
from cxp2p_gateway.dialects import base_of as base_of
from cxp2p_gateway.dialects import dialect_of as dialect_of
from cxp2p_gateway.keys import without_keys
from cxp2p_gateway.store import StoreError, StoreUnavailable

MODEL_TEXT_LENGTH_MAX: Final = 128  # of a model's name in an error text; records allow no longer one either


class Condition(Enum):
    """What went wrong."""

    KEY_MISSING = auto()
    KEY_INVALID = auto()
    SERVICE_FORBIDDEN = auto()
    MODEL_FORBIDDEN = auto()
    JSON_INVALID = auto()
    JSON_TOO_DEEP = auto()
    JSON_TOO_RICH = auto()
    PARAMETER_MISSING = auto()
    INPUT_MISSING = auto()
    INPUT_UNSUPPORTED = auto()
    TEXT_MISSING = auto()
    URLS_MISSING = auto()
    SPEECH_MISSING = auto()
    VOICE_UNKNOWN = auto()
    TYPE_INVALID = auto()
    OUT_OF_RANGE = auto()
    PARAMETER_UNSUPPORTED = auto()
    MODALITY_UNSUPPORTED = auto()
    REQUEST_UNSUPPORTED = auto()
    SCHEMA_INVALID = auto()
    SCHEMA_VIOLATED = auto()
    CONTEXT_EXCEEDED = auto()
    HTTP_MALFORMED = auto()
    HTTP_VERSION = auto()
    BODY_TOO_LARGE = auto()
    BODY_TOO_SLOW = auto()
    BODIES_TOO_MANY = auto()
    HEADERS_TOO_LARGE = auto()
    PATH_UNKNOWN = auto()
    METHOD_UNKNOWN = auto()
    MODEL_NOT_LISTED = auto()
    RECEIPT_UNKNOWN = auto()
    EPOCH_UNKNOWN = auto()
    EPOCH_OPEN = auto()
    KEYS_FORBIDDEN = auto()
    KEY_UNKNOWN = auto()
    KEY_REVOKED = auto()
    KEY_IS_BASE = auto()
    KEYS_TOO_MANY = auto()
    ID_MISSING = auto()
    GENERATION_UNKNOWN = auto()
    MEDIA_TYPE = auto()
    CONTENT_ENCODING = auto()
    RATE_LIMITED = auto()
    CREDIT_SPENT = auto()
    OVERLOADED = auto()
    TOO_MANY_CONNECTIONS = auto()
    ADDRESS_CROWDED = auto()
    NO_NODE = auto()
    MODEL_UNKNOWN = auto()
    NOT_READY = auto()
    UPSTREAM_FAILED = auto()
    UPSTREAM_CUT = auto()
    DEADLINE = auto()
    BOOKS_AWAY = auto()
    SHUTTING_DOWN = auto()
    BUG = auto()


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table. `retry_after_s`: the least and the most that is sent; None: nothing is sent."""

    status: int
    type: str
    code: str
    text: str
    retry_after_s: tuple[int, int] | None = None
    retry_is_useless: bool = False
    headers: tuple[tuple[str, str], ...] = ()


_REQUEST: Final = "invalid_request_error"
_SERVER: Final = "server_error"
_BEARER: Final = (("www-authenticate", "Bearer"),)
_CLOSE: Final = (("connection", "close"),)
_INVALID: Final = "Invalid value for '{param}': {problem}"
_NO_PROVISIONS: Final = "No provisions available for the requested model"

TABLE: Final[Mapping[Condition, Row]] = {
    Condition.KEY_MISSING: Row(
        401, _REQUEST, "missing_api_key", "Missing or invalid authorization header", None, True, _BEARER
    ),
    Condition.KEY_INVALID: Row(401, _REQUEST, "invalid_api_key", "Invalid API key", None, True, _BEARER),
    Condition.SERVICE_FORBIDDEN: Row(
        403, "permission_error", "service_not_allowed", "This API key may not use {service}", None, True
    ),
    Condition.MODEL_FORBIDDEN: Row(
        403, "permission_error", "model_not_allowed", "This API key may not use model '{model}'", None, True
    ),
    Condition.JSON_INVALID: Row(400, _REQUEST, "invalid_json", "Request body is not valid JSON"),
    Condition.JSON_TOO_DEEP: Row(400, _REQUEST, "invalid_json", "Request body is nested more than {limit} levels deep"),
    Condition.JSON_TOO_RICH: Row(400, _REQUEST, "invalid_json", "Request body has more than {limit} JSON values"),
    Condition.PARAMETER_MISSING: Row(
        400, _REQUEST, "missing_required_parameter", "Missing required parameter: model or messages"
    ),
    Condition.INPUT_MISSING: Row(
        400, _REQUEST, "missing_required_parameter", "Missing required parameter: model or input"
    ),
    Condition.INPUT_UNSUPPORTED: Row(
        400, _REQUEST, "unsupported_input_type", "Unsupported type of '{param}': {problem}"
    ),
    Condition.TEXT_MISSING: Row(400, _REQUEST, "missing_required_parameter", "Missing required parameter: text"),
    Condition.URLS_MISSING: Row(400, _REQUEST, "missing_required_parameter", "Missing required parameter: urls"),
    Condition.SPEECH_MISSING: Row(
        400, _REQUEST, "missing_required_parameter", "Missing required parameter: model, input or voice"
    ),
    Condition.VOICE_UNKNOWN: Row(400, _REQUEST, "invalid_voice", "Unknown voice '{voice}'; there are {near}"),
    Condition.TYPE_INVALID: Row(400, _REQUEST, "invalid_type", _INVALID),
    Condition.OUT_OF_RANGE: Row(400, _REQUEST, "out_of_range", _INVALID),
    Condition.PARAMETER_UNSUPPORTED: Row(
        400, _REQUEST, "unsupported_parameter", "Unsupported parameter '{param}': {problem}"
    ),
    Condition.MODALITY_UNSUPPORTED: Row(
        400, _REQUEST, "unsupported_modality", "Unsupported content in '{param}': {problem}"
    ),
    Condition.REQUEST_UNSUPPORTED: Row(
        400, _REQUEST, "unsupported_parameter", "No node that offers this model can do what this request asks for"
    ),
    Condition.SCHEMA_INVALID: Row(
        400, _REQUEST, "invalid_json_schema", "The JSON schema cannot be followed: {problem}"
    ),
    Condition.SCHEMA_VIOLATED: Row(
        503,
        _SERVER,
        "schema_violation",
        "The answer is not what the request demands: {problem}",
        (1, 1),
    ),
    Condition.CONTEXT_EXCEEDED: Row(
        400,
        _REQUEST,
        "context_length_exceeded",
        "This model's maximum context length is {limit} tokens; your request has {actual}",
        None,
        True,
    ),
    Condition.HTTP_MALFORMED: Row(400, _REQUEST, "malformed_request", "Malformed HTTP request", None, True, _CLOSE),
    Condition.HTTP_VERSION: Row(
        505, _REQUEST, "http_version_not_supported", "Use HTTP/1.1 or HTTP/1.0", None, True, _CLOSE
    ),
    Condition.BODY_TOO_LARGE: Row(413, _REQUEST, "payload_too_large", "Request body is larger than {limit} bytes"),
    Condition.BODY_TOO_SLOW: Row(
        408, _REQUEST, "request_timeout", "Request body did not arrive in {limit} seconds", None, True, _CLOSE
    ),
    Condition.HEADERS_TOO_LARGE: Row(
        431,
        _REQUEST,
        "payload_too_large",
        "Request headers are larger than {limit} bytes, or more than {count}",
        None,
        True,
        _CLOSE,
    ),
    Condition.PATH_UNKNOWN: Row(404, _REQUEST, "not_found", "Unknown path"),
    Condition.METHOD_UNKNOWN: Row(405, _REQUEST, "method_not_allowed", "Method not allowed; use {allow}"),
    Condition.MODEL_NOT_LISTED: Row(404, _REQUEST, "model_not_found", "The model '{model}' does not exist"),
    Condition.RECEIPT_UNKNOWN: Row(404, _REQUEST, "not_found", "No receipt under this id"),
    Condition.EPOCH_UNKNOWN: Row(404, _REQUEST, "not_found", "{problem}"),
    Condition.EPOCH_OPEN: Row(404, _REQUEST, "epoch_open", "{problem}", (1, 3600)),
    Condition.KEYS_FORBIDDEN: Row(
        403,
        "permission_error",
        "base_key_required",
        "Only the base key of an account may see or change this",
        None,
        True,
    ),
    Condition.KEY_UNKNOWN: Row(404, _REQUEST, "not_found", "No key under this id"),
    Condition.KEY_REVOKED: Row(400, _REQUEST, "key_revoked", "This key is revoked, and stays so"),
    Condition.KEY_IS_BASE: Row(
        400, _REQUEST, "base_key", "A base key has no limits and cannot be revoked; it can be rotated"
    ),
    Condition.KEYS_TOO_MANY: Row(
        400, _REQUEST, "too_many_keys", "An account has at most {limit} keys: revoke one that is no longer needed"
    ),
    Condition.ID_MISSING: Row(400, _REQUEST, "missing_required_parameter", "Missing required parameter: id"),
    Condition.GENERATION_UNKNOWN: Row(404, _REQUEST, "not_found", "No answer under this id"),
    Condition.MEDIA_TYPE: Row(415, _REQUEST, "unsupported_media_type", "Content-Type must be application/json"),
    Condition.CONTENT_ENCODING: Row(
        415, _REQUEST, "unsupported_media_type", "Content-Encoding is not supported: send the body as it is"
    ),
    Condition.RATE_LIMITED: Row(429, "rate_limit_error", "rate_limit_exceeded", "Rate limit reached: {limit}", (1, 60)),
    Condition.CREDIT_SPENT: Row(
        429, "insufficient_quota", "insufficient_quota", "Spend limit of this API key reached", None, True
    ),
    Condition.OVERLOADED: Row(503, _SERVER, "overloaded", "No capacity for model '{model}' right now", (2, 30)),
    Condition.TOO_MANY_CONNECTIONS: Row(503, _SERVER, "overloaded", "Too many connections", (2, 30), False, _CLOSE),
    Condition.ADDRESS_CROWDED: Row(
        429,
        "rate_limit_error",
        "rate_limit_exceeded",
        "Too many requests at once from your address",
        (2, 30),
        False,
        _CLOSE,
    ),
    Condition.BODIES_TOO_MANY: Row(503, _SERVER, "overloaded", "No room for more requests right now", (2, 30)),
    Condition.NO_NODE: Row(503, _SERVER, "no_healthy_providers", _NO_PROVISIONS, (5, 5)),
    Condition.MODEL_UNKNOWN: Row(503, _REQUEST, "model_not_found", _NO_PROVISIONS, None, True),
    Condition.NOT_READY: Row(503, _SERVER, "no_healthy_providers", "No live node is known yet", (5, 5)),
    Condition.UPSTREAM_FAILED: Row(503, _SERVER, "upstream_failed", "All providers failed for this request", (1, 1)),
    Condition.UPSTREAM_CUT: Row(
        503, _SERVER, "upstream_disconnected", "The provider stopped before the answer was complete"
    ),
    Condition.DEADLINE: Row(503, _SERVER, "timeout", "The answer took too long"),
    Condition.BOOKS_AWAY: Row(
        503, _SERVER, "database_unavailable", "The gateway's database does not answer right now", (2, 2)
    ),
    Condition.SHUTTING_DOWN: Row(503, _SERVER, "shutting_down", "This gateway is shutting down", (5, 5), False, _CLOSE),
    Condition.BUG: Row(500, _SERVER, "internal_error", "Internal server error (request {request_id})"),
}

ON_ALIAS: Final[Mapping[Condition, Row]] = {
    Condition.MODEL_UNKNOWN: Row(404, _REQUEST, "model_not_found", "The model '{model}' does not exist", None, True),
}
"""Rows that differ on the alias base path."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a service is called, and the parameter that is its work."""

    name: str
    param: str


USAGE: Final[Mapping[Service, Usage]] = {
    Service.CHAT: Usage("chat completions", "messages"),
    Service.EMBED: Usage("embeddings", "input"),
    Service.SPEECH: Usage("speech", "text"),
    Service.SCRAPE: Usage("scraping", "urls"),
}


class Fault(Exception):
    """A request cannot be answered. `param`: the parameter at fault; `words`: what the row's text names."""

    def __init__(
        self,
        condition: Condition,
        param: str | None = None,
        words: Mapping[str, object] | None = None,
        retry_after_s: float = 0.0,
    ) -> None:
        super().__init__(condition.name)
        self.condition = condition
        self.param = param
        self.words: Mapping[str, object] = words or {}
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Rendered:
    """An error answer, ready to send."""

    status: int
    code: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


def invalid_type(param: str, problem: str) -> Fault:
    """A parameter has the wrong type."""
    return Fault(Condition.TYPE_INVALID, param, {"problem": problem})


def out_of_range(param: str, problem: str) -> Fault:
    """A parameter has the right type and a value that cannot be."""
    return Fault(Condition.OUT_OF_RANGE, param, {"problem": problem})


def unsupported(param: str, problem: str) -> Fault:
    """A parameter is fine, but nothing here can do what it asks."""
    return Fault(Condition.PARAMETER_UNSUPPORTED, param, {"problem": problem})


def fault_of(error: CxError, model: str, known: bool, service: Service = Service.CHAT) -> Fault | None:
    """What the client is told of an error before the first piece of an answer; None: it is our own fault.

    `known`: whether this gateway has ever heard of `model`.
    """
    usage = USAGE[service]
    words = {"model": model}
    match error:
        case NoNode():
            return Fault(Condition.NO_NODE if known else Condition.MODEL_UNKNOWN, "model", words)
        case InsufficientCredit():
            return Fault(Condition.CREDIT_SPENT)
        case KeyEnded():
            return Fault(Condition.KEY_INVALID)
        case KeyForbids(limit=Limit.MODEL):
            return Fault(Condition.MODEL_FORBIDDEN, "model", words)
        case KeyForbids():
            return Fault(Condition.SERVICE_FORBIDDEN, None, {"service": usage.name})
        case RateLimited():
            return Fault(Condition.RATE_LIMITED, None, {"limit": error.limit}, error.retry_after_s)
        case Overloaded():
            return Fault(Condition.OVERLOADED, None, words, error.retry_after_s)
        case JobRefused(code=RefusalCode.BUSY | RefusalCode.DRAINING):
            return Fault(Condition.OVERLOADED, None, words, error.retry_after_ms / 1000)
        case JobFailed(code=FailureCode.CONTEXT_LENGTH):
            numbers = {"limit": error.limit, "actual": error.actual}
            return Fault(Condition.CONTEXT_EXCEEDED, usage.param, numbers)
        case JobFailed(code=FailureCode.REQUEST_UNSUPPORTED):
            return Fault(Condition.REQUEST_UNSUPPORTED)
        case JobFailed(code=FailureCode.SCHEMA_INVALID):
            return Fault(Condition.SCHEMA_INVALID, "response_format", {"problem": error.reason})
        case JobFailed(code=FailureCode.TIMEOUT):
            return Fault(Condition.DEADLINE)
        case StoreUnavailable():
            return Fault(Condition.BOOKS_AWAY)
        case LocalProtocolError() | StoreError():
            return None
    return Fault(Condition.UPSTREAM_FAILED)


def cut_of(error: CxError) -> Fault | None:
    """What the client is told of an error after the first piece of an answer; None: it is our bug."""
    match error:
        case JobFailed(code=FailureCode.TIMEOUT):
            return Fault(Condition.DEADLINE)
        case LocalProtocolError():
            return None
    return Fault(Condition.UPSTREAM_CUT)


def render(fault: Fault, dialect: Dialect, base: Base) -> Rendered:
    """Status, headers and body of the answer, the same facts in both dialects."""
    row = row_of(fault, base)
    text = text_of(fault, base)
    headers = [
        ("content-type", "application/json"),
        ("x-error-code", row.code),
        ("x-error-type", row.type),
        ("cache-control", "no-store"),
        ("vary", "X-Error-Format, X-Stainless-Lang, User-Agent"),
        *row.headers,
    ]
    if row.retry_after_s is not None:
        least, most = row.retry_after_s
        headers.append(("retry-after", str(min(most, max(least, math.ceil(fault.retry_after_s))))))
    if row.retry_is_useless:
        headers.append(("x-should-retry", "false"))
    if "allow" in fault.words:
        headers.append(("allow", str(fault.words["allow"])))
    body = {"error": text} if dialect is Dialect.SIMPLE else {"error": error_object(fault, base)}
    return Rendered(row.status, row.code, tuple(headers), json.dumps(body, separators=(",", ":")).encode())


def error_object(fault: Fault, base: Base) -> dict[str, str | None]:
    """OpenAI's error object: all four keys, always."""
    row = row_of(fault, base)
    return {"message": text_of(fault, base), "type": row.type, "param": fault.param, "code": row.code}


def row_of(fault: Fault, base: Base) -> Row:
    """The table's row for a fault under a base path."""
    if base is Base.ALIAS and fault.condition in ON_ALIAS:
        return ON_ALIAS[fault.condition]
    return TABLE[fault.condition]


def text_of(fault: Fault, base: Base) -> str:
    """The error text, the same in both dialects."""
    words = {"param": fault.param, **fault.words}
    if "model" in words:
        words["model"] = str(words["model"])[:MODEL_TEXT_LENGTH_MAX]
    return without_keys(row_of(fault, base).text.format(**words))
