"""Calls of the API, ready to paste: curl, Python and JavaScript, for each service. Pure.

What is pasted holds names of models that strangers made up: they stand in it as JSON strings, and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote
from typing import Any, Final

from cxp2p.records import Service

PATHS: Final[Mapping[Service, str]] = {
    Service.CHAT: "/chat/completions",
    Service.EMBED: "/embeddings",
    Service.SPEECH: "/tts",
    Service.SCRAPE: "/scrape",
}


@dataclass(frozen=True, slots=True)
class Snippet:
    """One call. `name` is the language's."""

    name: str
    code: str


def snippets(service: Service, model: str, base_url: str, user_id: str) -> tuple[Snippet, ...]:
    """The calls for a model, with `YOUR_API_KEY` for the key."""
    body = _body(service, model)
    return (
        Snippet("curl", _curl(service, body, base_url, user_id)),
        Snippet("Python", _python(service, body, base_url, user_id)),
        Snippet("JavaScript", _javascript(service, body, base_url, user_id)),
    )


def _body(service: Service, model: str) -> dict[str, Any]:
    match service:
        case Service.CHAT:
            return {"model": model, "messages": [{"role": "user", "content": "Write a haiku about AI"}]}
        case Service.EMBED:
            return {"model": model, "input": "Your text to embed"}
        case Service.SPEECH:
            return {"text": "Hello, this is a test of text to speech.", "voice": model}
    return {"urls": ["https://example.com"], "format": "markdown"}


def _curl(service: Service, body: Mapping[str, Any], base_url: str, user_id: str) -> str:
    text = quote(json.dumps(body, indent=2, ensure_ascii=False))
    end = " \\\n  --output speech.wav" if service is Service.SPEECH else ""
    return (
        f"curl -X POST {base_url}{PATHS[service]} \\\n"
        '  -H "Authorization: Bearer YOUR_API_KEY" \\\n'
        f'  -H "X-User-Id: {user_id}" \\\n'
        '  -H "Content-Type: application/json" \\\n'
        f"  -d {text}{end}"
    )


def _python(service: Service, body: Mapping[str, Any], base_url: str, user_id: str) -> str:
    if service in (Service.CHAT, Service.EMBED):
        call = "chat.completions" if service is Service.CHAT else "embeddings"
        shown = "response.choices[0].message.content" if service is Service.CHAT else "len(response.data[0].embedding)"
        fields = "".join(f"    {name}={json.dumps(value, ensure_ascii=False)},\n" for name, value in body.items())
        return (
            "import openai\n\n"
            "client = openai.OpenAI(\n"
            '    api_key="YOUR_API_KEY",\n'
            f"    base_url={json.dumps(base_url)},\n"
            f'    default_headers={{"X-User-Id": {json.dumps(user_id)}}},\n'
            ")\n\n"
            f"response = client.{call}.create(\n{fields})\n"
            f"print({shown})"
        )
    end = 'open("speech.wav", "wb").write(response.content)' if service is Service.SPEECH else "print(response.json())"
    return (
        "import httpx\n\n"
        "response = httpx.post(\n"
        f"    {json.dumps(base_url + PATHS[service])},\n"
        f'    headers={{"Authorization": "Bearer YOUR_API_KEY", "X-User-Id": {json.dumps(user_id)}}},\n'
        f"    json={json.dumps(body, ensure_ascii=False)},\n"
        "    timeout=60,\n"
        ")\n"
        "response.raise_for_status()\n"
        f"{end}"
    )


def _javascript(service: Service, body: Mapping[str, Any], base_url: str, user_id: str) -> str:
    if service in (Service.CHAT, Service.EMBED):
        call = "chat.completions" if service is Service.CHAT else "embeddings"
        shown = (
            "response.choices[0].message.content" if service is Service.CHAT else "response.data[0].embedding.length"
        )
        return (
            "import OpenAI from 'openai';\n\n"
            "const openai = new OpenAI({\n"
            "  apiKey: 'YOUR_API_KEY',\n"
            f"  baseURL: {json.dumps(base_url)},\n"
            f"  defaultHeaders: {{ 'X-User-Id': {json.dumps(user_id)} }},\n"
            "});\n\n"
            f"const response = await openai.{call}.create({json.dumps(body, indent=2, ensure_ascii=False)});\n"
            f"console.log({shown});"
        )
    end = "console.log(await response.json());"
    start = ""
    if service is Service.SPEECH:
        start = "import { writeFile } from 'node:fs/promises';\n\n"
        end = "await writeFile('speech.wav', Buffer.from(await response.arrayBuffer()));"
    return (
        f"{start}const response = await fetch({json.dumps(base_url + PATHS[service])}, {{\n"
        "  method: 'POST',\n"
        "  headers: {\n"
        "    'Authorization': 'Bearer YOUR_API_KEY',\n"
        f"    'X-User-Id': {json.dumps(user_id)},\n"
        "    'Content-Type': 'application/json',\n"
        "  },\n"
        f"  body: JSON.stringify({json.dumps(body, indent=2, ensure_ascii=False)}),\n"
        "});\n"
        f"{end}"
    )
