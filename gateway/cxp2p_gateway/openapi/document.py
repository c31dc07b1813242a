"""The OpenAPI 3.1 document: every operation with its schemas, and its errors from the one table of faults. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

from cxp2p_gateway.faults import Base, Condition, Fault, row_of
from cxp2p_gateway.openapi.epochs import EPOCH_OPERATIONS, EPOCH_SCHEMAS, OWN_OPERATIONS
from cxp2p_gateway.openapi.keys import KEY_OPERATIONS, KEY_SCHEMAS
from cxp2p_gateway.openapi.operations import JSON, OPERATIONS, Operation
from cxp2p_gateway.openapi.schemas import SCHEMAS
from cxp2p_gateway.openapi.words import Schema, ref, text, whole

BASES: Final = (Base.DOCUMENTED, Base.ALIAS)
ALL: Final = {**OPERATIONS, **KEY_OPERATIONS, **EPOCH_OPERATIONS, **OWN_OPERATIONS}
ALWAYS: Final[dict[str, tuple[str, Schema]]] = {
    "x-request-id": ("Names the request.", text(pattern="^req_[0-9A-Z]{26}$")),
    "x-cx-processing-ms": ("Until the headers were sent.", whole(0)),
}
OF_WORK: Final[dict[str, tuple[str, Schema]]] = {
    "x-cx-generation-id": ("Names the answer; its receipt is found by it.", text(1)),
    "x-cx-receipt-url": ("Where what both sides signed about it is told.", text(1)),
}
OF_ERRORS: Final[dict[str, tuple[str, Schema]]] = {
    "x-error-code": ("What went wrong, for programs.", text(1)),
    "x-error-type": ("Of which kind it is.", text(1)),
}


def document(version: str) -> dict[str, Any]:
    """The whole document, as JSON has it."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "cxp2p gateway",
            "version": version,
            "description": "OpenAI-compatible HTTP in front of a peer-to-peer network. Null is absence; fields that "
            "nobody knows are ignored. Texts are Unicode without halves of surrogate pairs.",
        },
        "servers": [{"url": base.value} for base in BASES],
        "security": [{"key": []}],
        "paths": {
            path: {method: _operation(each) for method, each in methods.items()} for path, methods in ALL.items()
        },
        "components": {
            "schemas": SCHEMAS | KEY_SCHEMAS | EPOCH_SCHEMAS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    told: dict[str, Any] = {"operationId": operation.name, "summary": operation.summary}
    parameters = [
        {"name": name, "in": "path", "required": True, "description": about, "schema": text(1)}
        for name, about in operation.parameters.items()
    ]
    parameters += [
        {
            "name": name,
            "in": "query",
            "required": name in operation.query_required,
            "description": about,
            "schema": schema,
        }
        for name, (about, schema) in operation.query.items()
    ]
    if operation.keyed:
        parameters += [_header("X-User-Id", "The owner of the key; any other is refused.", text())]
    else:
        told["security"] = []
    if operation.request is not None:
        content = {JSON: {"schema": ref(operation.request)}}
        told["requestBody"] = {"required": operation.request_required, "content": content}
    if operation.is_work:
        parameters += [
            _header("X-Cx-Metadata", "`enabled`: tells how the answer came about.", text(examples=["enabled"]))
        ]
    if parameters:
        told["parameters"] = parameters
    told["responses"] = {"200": _answer(operation), **_failures(operation.conditions)}
    return told


def _header(name: str, about: str, schema: Schema) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": about, "schema": schema}


def _answer(operation: Operation) -> dict[str, Any]:
    headers = ALWAYS | (OF_WORK if operation.is_work else {})
    return {
        "description": operation.summary,
        "headers": _headers(headers),
        "content": {kind: {"schema": schema} for kind, schema in operation.answers.items()},
    }


def _headers(headers: dict[str, tuple[str, Schema]]) -> dict[str, Any]:
    return {
        name: {"description": about, "required": True, "schema": schema} for name, (about, schema) in headers.items()
    }


def _failures(conditions: Iterable[Condition]) -> dict[str, Any]:
    """The error answers by status, under both bases, each with all codes and texts that it can have."""
    texts: dict[str, set[str]] = defaultdict(set)
    for condition in conditions:
        for base in BASES:
            row = row_of(Fault(condition), base)
            texts[str(row.status)].add(f"`{row.code}`: {row.text}")
    return {
        status: {
            "description": "\n\n".join(sorted(told)),
            "headers": _headers(ALWAYS | OF_ERRORS),
            "content": {JSON: {"schema": ref("Error")}},
        }
        for status, told in sorted(texts.items())
    }
