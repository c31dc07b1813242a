"""GET /openapi.json and GET /docs: the document, and the same as a page. Both are made once, before any request."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from cxp2p_gateway.exchange import Exchange
from cxp2p_gateway.middleware import encoded
from cxp2p_gateway.openapi.document import document

STYLE: Final = """
:root { color-scheme: light dark; --line: light-dark(#d8dce2, #343a44); --soft: light-dark(#5b6472, #9aa4b2) }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 0 auto; padding: 2rem 1rem }
h1 { margin: 0 } p { margin: .25rem 0; color: var(--soft) }
details { border-top: 1px solid var(--line); padding: .75rem 0 }
summary { cursor: pointer } code { font: .9em ui-monospace, monospace } b { display: inline-block; min-width: 3.5rem }
table { border-collapse: collapse; width: 100%; margin: .75rem 0 }
th, td { text-align: left; vertical-align: top; padding: .25rem .5rem .25rem 0; border-bottom: 1px solid var(--line) }
td { overflow-wrap: anywhere }
"""
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        f"style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
FRESH_S: Final = 300


class Fixed:
    """An endpoint that always says the same."""

    def __init__(self, kind: str, body: bytes, headers: tuple[tuple[str, str], ...] = ()) -> None:
        self._body = body
        self._headers = encoded(
            [
                ("content-type", kind),
                ("content-length", str(len(body))),
                ("cache-control", f"public, max-age={FRESH_S}"),
                ("x-content-type-options", "nosniff"),
                *headers,
            ]
        )

    async def __call__(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        await send({"type": "http.response.body", "body": self._body})


def endpoints(version: str) -> tuple[Fixed, Fixed]:
    """The document and the page of this version of the program."""
    told = document(version)
    data = json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()
    page = "".join(_page(told)).encode()
    return (
        Fixed("application/json", data),
        Fixed("text/html; charset=utf-8", page, (("content-security-policy", POLICY),)),
    )


def _page(told: Mapping[str, Any]) -> Iterator[str]:
    title = escape(told["info"]["title"])
    yield f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    yield f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>'
    yield f"<main><h1>{title}</h1><p>{escape(told['info']['version'])} · {escape(told['info']['description'])}</p>"
    bases = ", ".join(f"<code>{escape(server['url'])}</code>" for server in told["servers"])
    yield f'<p>Under {bases} · <a href="openapi.json">OpenAPI document</a></p>'
    schemas = told["components"]["schemas"]
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            yield f"<details><summary><b>{method.upper()}</b> <code>{escape(path)}</code> "
            yield f"{escape(operation['summary'])}</summary>"
            yield from _operation(operation, schemas)
            yield "</details>"
    yield "</main></body></html>"


def _operation(operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[str]:
    if "requestBody" in operation:
        name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        must = schemas[name].get("required", ())
        rows = ((field, field in must, schema) for field, schema in schemas[name]["properties"].items())
        yield "<table><tr><th>Field</th><th>Value</th></tr>"
        for field, needed, schema in rows:
            yield f"<tr><td><code>{escape(field)}</code>{' required' if needed else ''}</td>"
            yield f"<td>{escape(_told(schema))}</td></tr>"
        yield "</table>"
    yield "<table><tr><th>Status</th><th>Answer</th></tr>"
    for status, answer in operation["responses"].items():
        about = "<br>".join(escape(line) for line in answer["description"].split("\n\n"))
        yield f"<tr><td>{status}</td><td>{about}</td></tr>"
    yield "</table>"


def _told(schema: Mapping[str, Any]) -> str:
    """A schema in a few words."""
    words: list[str] = []
    if "$ref" in schema:
        words.append(schema["$ref"].rpartition("/")[2])
    elif "anyOf" in schema:
        words.append(" or ".join(dict.fromkeys(_kind(each) for each in schema["anyOf"])))
    elif "enum" in schema:
        words.append(", ".join(str(value) for value in schema["enum"] if value is not None))
    else:
        words.append(_kind(schema))
    for name, sign in (("minimum", "from"), ("maximum", "to"), ("maxLength", "at most"), ("maxItems", "at most")):
        if name in schema:
            words.append(f"{sign} {schema[name]}")
    if schema.get("default") is not None:
        words.append(f"default {json.dumps(schema['default'])}")
    return ", ".join(words) + (f". {schema['description']}" if "description" in schema else "")


def _kind(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    kind = schema.get("type", "anything")
    return " or ".join(each for each in kind if each != "null") if isinstance(kind, list) else str(kind)
