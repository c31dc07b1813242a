"""The error table: exact statuses, texts and headers, in both renderings."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cxp2p_gateway.faults import (
    TABLE,
    Base,
    Condition,
    Dialect,
    Fault,
    base_of,
    dialect_of,
    invalid_type,
    out_of_range,
    render,
    unsupported,
)

SERVER = "server_error"
NO_RETRY = {"x-should-retry": "false"}
BEARER = {"www-authenticate": "Bearer", **NO_RETRY}
CLOSE = {"connection": "close"}
NO_PROVISIONS = "No provisions available for the requested model"
NOT_YET = {"problem": "images are not available yet"}


def row(
    status: int,
    code: str,
    text: str,
    fault: Fault | Condition,
    headers: dict[str, str] | None = None,
    kind: str = "invalid_request_error",
) -> tuple[Fault, int, str, str, str, dict[str, str]]:
    """What a fault must look like; `headers` are those beyond what every error has."""
    return fault if isinstance(fault, Fault) else Fault(fault), status, kind, code, text, headers or {}


def words(condition: Condition, param: str | None = None, retry_after_s: float = 0.0, **named: object) -> Fault:
    return Fault(condition, param, named, retry_after_s)


C = Condition
ROWS = [
    row(401, "missing_api_key", "Missing or invalid authorization header", C.KEY_MISSING, BEARER),
    row(401, "invalid_api_key", "Invalid API key", C.KEY_INVALID, BEARER),
    row(
        403,
        "service_not_allowed",
        "This API key may not use chat completions",
        words(C.SERVICE_FORBIDDEN, service="chat completions"),
        NO_RETRY,
        "permission_error",
    ),
    row(
        403,
        "model_not_allowed",
        "This API key may not use model 'x'",
        words(C.MODEL_FORBIDDEN, "model", model="x"),
        NO_RETRY,
        "permission_error",
    ),
    row(400, "invalid_json", "Request body is not valid JSON", C.JSON_INVALID),
    row(400, "invalid_json", "Request body is nested more than 64 levels deep", words(C.JSON_TOO_DEEP, limit=64)),
    row(400, "invalid_json", "Request body has more than 9 JSON values", words(C.JSON_TOO_RICH, limit=9)),
    row(
        400,
        "missing_required_parameter",
        "Missing required parameter: model or messages",
        Fault(C.PARAMETER_MISSING, "model"),
    ),
    row(
        403,
        "base_key_required",
        "Only the base key of an account may see or change this",
        C.KEYS_FORBIDDEN,
        NO_RETRY,
        "permission_error",
    ),
    row(404, "not_found", "No key under this id", C.KEY_UNKNOWN),
    row(400, "key_revoked", "This key is revoked, and stays so", C.KEY_REVOKED),
    row(400, "base_key", "A base key has no limits and cannot be revoked; it can be rotated", C.KEY_IS_BASE),
    row(
        400,
        "too_many_keys",
        "An account has at most 100 keys: revoke one that is no longer needed",
        words(C.KEYS_TOO_MANY, limit=100),
    ),
    row(400, "missing_required_parameter", "Missing required parameter: id", Fault(C.ID_MISSING, "id")),
    row(404, "not_found", "No answer under this id", C.GENERATION_UNKNOWN),
    row(
        400,
        "missing_required_parameter",
        "Missing required parameter: model or input",
        Fault(C.INPUT_MISSING, "input"),
    ),
    row(400, "missing_required_parameter", "Missing required parameter: text", Fault(C.TEXT_MISSING, "text")),
    row(400, "missing_required_parameter", "Missing required parameter: urls", Fault(C.URLS_MISSING, "urls")),
    row(
        400,
        "missing_required_parameter",
        "Missing required parameter: model, input or voice",
        Fault(C.SPEECH_MISSING, "voice"),
    ),
    row(
        400,
        "invalid_voice",
        "Unknown voice 'x'; there are af_bella, alloy",
        Fault(C.VOICE_UNKNOWN, "voice", {"voice": "x", "near": "af_bella, alloy"}),
    ),
    row(
        400,
        "unsupported_input_type",
        "Unsupported type of 'input[1]': pass strings",
        words(C.INPUT_UNSUPPORTED, "input[1]", problem="pass strings"),
    ),
    row(
        400,
        "invalid_type",
        "Invalid value for 'messages[2].role': expected a string, got a number",
        invalid_type("messages[2].role", "expected a string, got a number"),
    ),
    row(
        400,
        "out_of_range",
        "Invalid value for 'temperature': 3 is not between 0 and 2",
        out_of_range("temperature", "3 is not between 0 and 2"),
    ),
    row(
        400,
        "unsupported_parameter",
        "Unsupported parameter 'tools': function calling is not available yet",
        unsupported("tools", "function calling is not available yet"),
    ),
    row(
        400,
        "unsupported_modality",
        "Unsupported content in 'messages[0].content[1].type': images are not available yet",
        Fault(C.MODALITY_UNSUPPORTED, "messages[0].content[1].type", NOT_YET),
    ),
    row(
        400,
        "unsupported_parameter",
        "No node that offers this model can do what this request asks for",
        C.REQUEST_UNSUPPORTED,
    ),
    row(
        400,
        "invalid_json_schema",
        "The JSON schema cannot be followed: Unimplemented keys: not",
        words(C.SCHEMA_INVALID, "response_format", problem="Unimplemented keys: not"),
    ),
    row(
        503,
        "schema_violation",
        "The answer is not what the request demands: it is not JSON",
        words(C.SCHEMA_VIOLATED, problem="it is not JSON"),
        {"retry-after": "1"},
        SERVER,
    ),
    row(
        400,
        "context_length_exceeded",
        "This model's maximum context length is 2048 tokens; your request has 3000",
        words(C.CONTEXT_EXCEEDED, "messages", limit=2048, actual=3000),
        NO_RETRY,
    ),
    row(400, "malformed_request", "Malformed HTTP request", C.HTTP_MALFORMED, NO_RETRY | CLOSE),
    row(505, "http_version_not_supported", "Use HTTP/1.1 or HTTP/1.0", C.HTTP_VERSION, NO_RETRY | CLOSE),
    row(
        413,
        "payload_too_large",
        "Request body is larger than 16777216 bytes",
        words(C.BODY_TOO_LARGE, limit=16_777_216),
    ),
    row(
        408,
        "request_timeout",
        "Request body did not arrive in 120 seconds",
        words(C.BODY_TOO_SLOW, limit=120),
        NO_RETRY | CLOSE,
    ),
    row(503, "overloaded", "No room for more requests right now", C.BODIES_TOO_MANY, {"retry-after": "2"}, SERVER),
    row(
        431,
        "payload_too_large",
        "Request headers are larger than 65536 bytes, or more than 256",
        words(C.HEADERS_TOO_LARGE, limit=65_536, count=256),
        NO_RETRY | CLOSE,
    ),
    row(404, "not_found", "Unknown path", C.PATH_UNKNOWN),
    row(
        405,
        "method_not_allowed",
        "Method not allowed; use GET, HEAD",
        words(C.METHOD_UNKNOWN, allow="GET, HEAD"),
        {"allow": "GET, HEAD"},
    ),
    row(404, "model_not_found", "The model 'x' does not exist", words(C.MODEL_NOT_LISTED, "model", model="x")),
    row(404, "not_found", "No receipt under this id", C.RECEIPT_UNKNOWN),
    row(404, "not_found", "nothing counted", words(C.EPOCH_UNKNOWN, problem="nothing counted")),
    row(404, "epoch_open", "not yet", words(C.EPOCH_OPEN, problem="not yet"), {"retry-after": "1"}),
    row(415, "unsupported_media_type", "Content-Type must be application/json", C.MEDIA_TYPE),
    row(
        415,
        "unsupported_media_type",
        "Content-Encoding is not supported: send the body as it is",
        C.CONTENT_ENCODING,
    ),
    row(
        429,
        "rate_limit_exceeded",
        "Rate limit reached: 60 requests per minute",
        words(C.RATE_LIMITED, None, 11.2, limit="60 requests per minute"),
        {"retry-after": "12"},
        "rate_limit_error",
    ),
    row(
        429,
        "insufficient_quota",
        "Spend limit of this API key reached",
        C.CREDIT_SPENT,
        NO_RETRY,
        "insufficient_quota",
    ),
    row(
        503,
        "overloaded",
        "No capacity for model 'x' right now",
        words(C.OVERLOADED, None, 7, model="x"),
        {"retry-after": "7"},
        SERVER,
    ),
    row(503, "overloaded", "Too many connections", C.TOO_MANY_CONNECTIONS, {"retry-after": "2", **CLOSE}, SERVER),
    row(
        429,
        "rate_limit_exceeded",
        "Too many requests at once from your address",
        C.ADDRESS_CROWDED,
        {"retry-after": "2", **CLOSE},
        "rate_limit_error",
    ),
    row(503, "no_healthy_providers", NO_PROVISIONS, words(C.NO_NODE, "model", model="x"), {"retry-after": "5"}, SERVER),
    row(503, "model_not_found", NO_PROVISIONS, words(C.MODEL_UNKNOWN, "model", model="x"), NO_RETRY),
    row(503, "no_healthy_providers", "No live node is known yet", C.NOT_READY, {"retry-after": "5"}, SERVER),
    row(
        503,
        "upstream_failed",
        "All providers failed for this request",
        C.UPSTREAM_FAILED,
        {"retry-after": "1"},
        SERVER,
    ),
    row(
        503,
        "upstream_disconnected",
        "The provider stopped before the answer was complete",
        C.UPSTREAM_CUT,
        kind=SERVER,
    ),
    row(503, "timeout", "The answer took too long", C.DEADLINE, kind=SERVER),
    row(
        503,
        "shutting_down",
        "This gateway is shutting down",
        C.SHUTTING_DOWN,
        {"retry-after": "5", **CLOSE},
        SERVER,
    ),
    row(
        503,
        "database_unavailable",
        "The gateway's database does not answer right now",
        C.BOOKS_AWAY,
        {"retry-after": "2"},
        SERVER,
    ),
    row(
        500,
        "internal_error",
        "Internal server error (request req_1)",
        words(C.BUG, request_id="req_1"),
        kind=SERVER,
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=[row[0].condition.name for row in ROWS])
@pytest.mark.parametrize("base", [Base.DOCUMENTED, Base.ALIAS])
def test_every_row_is_exact_in_both_renderings(row: Any, base: Base) -> None:
    """Each condition has one status, one text and one set of headers; only the body's form depends on the dialect."""
    fault, status, kind, code, text, headers = row
    if base is Base.ALIAS and fault.condition is Condition.MODEL_UNKNOWN:
        status, text = 404, "The model 'x' does not exist"
    common = {
        "content-type": "application/json",
        "x-error-code": code,
        "x-error-type": kind,
        "cache-control": "no-store",
        "vary": "X-Error-Format, X-Stainless-Lang, User-Agent",
    }
    for dialect, body in (
        (Dialect.SIMPLE, {"error": text}),
        (Dialect.OPENAI, {"error": {"message": text, "type": kind, "param": fault.param, "code": code}}),
    ):
        rendered = render(fault, dialect, base)
        assert (rendered.status, rendered.code) == (status, code)
        assert dict(rendered.headers) == common | headers
        assert len(rendered.headers) == len(common | headers)
        assert json.loads(rendered.body) == body


def test_every_condition_has_a_row_and_a_test() -> None:
    """No condition can be raised that the table does not answer, and none is answered untested."""
    assert set(TABLE) == set(Condition) == {row[0].condition for row in ROWS}


@pytest.mark.parametrize(
    ("fault", "sent"),
    [
        (Fault(Condition.RATE_LIMITED, None, {"limit": ""}, 0), "1"),
        (Fault(Condition.RATE_LIMITED, None, {"limit": ""}, 3600), "60"),
        (Fault(Condition.OVERLOADED, None, {"model": ""}, 0.2), "2"),
        (Fault(Condition.OVERLOADED, None, {"model": ""}, 300), "30"),
        (Fault(Condition.OVERLOADED, None, {"model": ""}, 2.01), "3"),
    ],
)
def test_retry_after_stays_within_what_sdks_obey(fault: Fault, sent: str) -> None:
    """Retry-After is whole seconds, rounded up, never 0 and never so long that an SDK gives up."""
    assert dict(render(fault, Dialect.SIMPLE, Base.DOCUMENTED).headers)["retry-after"] == sent


def test_a_long_model_name_does_not_make_a_long_error() -> None:
    """What a client sent is quoted up to a limit; braces and half characters in it do no harm."""
    fault = Fault(Condition.MODEL_UNKNOWN, "model", {"model": "{x}\ud800" + "m" * 10_000})
    body = json.loads(render(fault, Dialect.SIMPLE, Base.ALIAS).body)
    assert body == {"error": "The model '" + ("{x}\ud800" + "m" * 10_000)[:128] + "' does not exist"}


@pytest.mark.parametrize(
    ("headers", "path", "expected"),
    [
        ({}, "/api/v1/models", Dialect.SIMPLE),
        ({}, "/v1/models", Dialect.OPENAI),
        ({}, "/v1", Dialect.OPENAI),
        ({}, "/v10/models", Dialect.SIMPLE),
        ({}, "/api/v1x", Dialect.SIMPLE),
        ({}, "/health", Dialect.SIMPLE),
        ({"user-agent": "curl/8.1"}, "/api/v1/models", Dialect.SIMPLE),
        ({"user-agent": "OpenAI/Python 3.54.0"}, "/api/v1/models", Dialect.OPENAI),
        ({"user-agent": "AsyncOpenAI/Python 3.54.0"}, "/api/v1/models", Dialect.OPENAI),
        ({"user-agent": "ai/5.0.1 ai-sdk/provider-utils/3"}, "/api/v1/models", Dialect.OPENAI),
        ({"user-agent": "mine ai-sdk/openai-compatible/2.0.91"}, "/api/v1/models", Dialect.OPENAI),
        ({"user-agent": "air/1"}, "/api/v1/models", Dialect.SIMPLE),
        ({"x-stainless-lang": "js"}, "/api/v1/models", Dialect.OPENAI),
        ({"x-stainless-lang": "js", "x-error-format": "simple"}, "/api/v1/models", Dialect.SIMPLE),
        ({"x-error-format": " OpenAI "}, "/api/v1/models", Dialect.OPENAI),
        ({"x-error-format": "xml"}, "/v1/models", Dialect.OPENAI),
    ],
)
def test_the_dialect_is_what_the_client_reads(headers: dict[str, str], path: str, expected: Dialect) -> None:
    """An explicit wish wins, then the SDK's traces, then what the base path documents."""
    assert dialect_of(headers, base_of(path)) is expected
