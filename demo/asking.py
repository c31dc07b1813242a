"""Asks the gateway with the official `openai` package, and checks the receipts without trusting anybody."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import click
import httpx
import openai

from cxp2p.identity import Kind, open_envelope
from cxp2p.receipts import digest
from cxp2p.records import Countersign, Order, Receipt
from cxp2p.units import output_commit
from cxp2p.wire import decode
from demo.network import MODEL, Network

READY_S = 30.0
PROMPT = "What is gravity? Answer in two sentences."


def wait_until_ready(network: Network, nodes: int) -> None:
    """Until the gateway has found so many nodes. Raises TimeoutError."""
    deadline = time.monotonic() + READY_S
    with httpx.Client(base_url=network.base_url, headers=headers_of(network)) as http:
        while True:
            models = http.get("/models").raise_for_status().json()["data"]
            if any(model["id"] == MODEL and model["providers"]["count"] >= nodes for model in models):
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"the gateway did not find {nodes} nodes in {READY_S:g} s; see the logs")
            time.sleep(0.1)


def ask_streamed(network: Network) -> str:
    """One streamed completion: the text as it comes, then how fast it was, who did it, and the receipt. Its id."""
    click.secho(f"\n> {PROMPT}", bold=True)
    with _client(network) as client:
        started = time.perf_counter()
        first = None
        pieces = 0
        stream = client.chat.completions.with_raw_response.create(
            model=MODEL,
            messages=[{"role": "user", "content": PROMPT}],
            stream=True,
            stream_options={"include_usage": True},
            max_tokens=80,
            temperature=0,
        )
        generation = stream.headers["x-cx-generation-id"]
        facts: dict[str, Any] = {}
        tokens = 0
        for chunk in stream.parse():
            if chunk.choices and chunk.choices[0].delta.content:
                first = first or time.perf_counter()
                pieces += 1
                click.echo(chunk.choices[0].delta.content, nl=False)
            if chunk.usage is not None:
                tokens = chunk.usage.completion_tokens
            facts = (chunk.model_extra or {}).get("cx") or facts
        ended = time.perf_counter()
    first = first or ended
    rate = (tokens - 1) / (ended - first) if tokens > 1 else 0.0
    click.echo()
    print_facts(f"{tokens} tokens, {rate:.0f} tokens/s, first token after {1000 * (first - started):.0f} ms", facts)
    print_receipt(network, generation, tokens)
    return generation


def ask_plain(network: Network) -> str:
    """The same without streaming."""
    prompt = "Name three colours."
    click.secho(f"\n> {prompt}", bold=True)
    with _client(network) as client:
        started = time.perf_counter()
        answer = client.chat.completions.with_raw_response.create(
            model=MODEL, messages=[{"role": "user", "content": prompt}], max_tokens=40, temperature=0
        )
        ended = time.perf_counter()
        completion = answer.parse()
    assert completion.usage is not None
    click.echo(completion.choices[0].message.content)
    tokens = completion.usage.completion_tokens
    facts = (completion.model_extra or {}).get("cx") or {}
    print_facts(f"{tokens} tokens in {ended - started:.2f} s", facts)
    print_receipt(network, answer.headers["x-cx-generation-id"], tokens)
    return answer.headers["x-cx-generation-id"]


def _client(network: Network) -> openai.OpenAI:
    return openai.OpenAI(
        api_key=network.credentials["api_key"],
        base_url=network.base_url,
        default_headers={"X-User-Id": network.credentials["user_id"], "X-Cx-Metadata": "enabled"},
        max_retries=0,
    )


def headers_of(network: Network) -> dict[str, str]:
    return {
        "Authorization": f"Bearer {network.credentials['api_key']}",
        "X-User-Id": network.credentials["user_id"],
    }


def print_facts(speed: str, facts: dict[str, Any]) -> None:
    """How quick an answer was, who made it, and how that node was found: `facts` are the gateway's `cx` object."""
    found = facts.get("found") or {}
    click.secho(f"  speed    {speed}", dim=True)
    click.secho(f"  node     {facts.get('node')}, attempt {facts.get('attempts')}", dim=True)
    click.secho(f"  found    by {found.get('via')} look-up in {found.get('lookup_ms')} ms", dim=True)


def print_receipt(network: Network, generation: str, units: int) -> None:
    """Fetches what both sides signed and verifies it here, from the bytes alone. Raises if anything does not hold."""
    reply = httpx.get(f"{network.base_url}/receipts/{generation}", headers=headers_of(network)).raise_for_status()
    signed = {name: base64.b64decode(reply.json()[name]["envelope"]) for name in ("order", "receipt", "countersign")}
    order_by = open_envelope(Kind.ORDER, signed["order"])
    receipt_by = open_envelope(Kind.RECEIPT, signed["receipt"])
    agreed_by = open_envelope(Kind.COUNTERSIGN, signed["countersign"])
    order = decode(Order, order_by.body)
    receipt = decode(Receipt, receipt_by.body)
    agreed = decode(Countersign, agreed_by.body)
    checks = {
        "receipt is by the node": receipt_by.peer == order.node == receipt.node,
        "order is by the gateway": order_by.peer == agreed_by.peer == order.gateway,
        "receipt is for the order": receipt.order_hash == digest(signed["order"]),
        "countersign is for the receipt": agreed.receipt_hash == digest(signed["receipt"]),
        "units agree": receipt.out_units == units,
        "output is committed": len(receipt.output_commit) == len(output_commit(())),
    }
    broken = [name for name, holds in checks.items() if not holds]
    if broken:
        raise ValueError(f"the receipt of {generation} does not hold: {', '.join(broken)}")
    facts = {
        "in": receipt.in_units,
        "out": receipt.out_units,
        "charge": f"{receipt.charge} µcredits",
        "lane": f"{receipt.lane.hex()[:8]}#{receipt.seq}",
        "model": receipt.model_digest.hex()[:12],
        "finish": str(receipt.finish),
    }
    click.secho(f"  receipt  {json.dumps(facts, ensure_ascii=False)}", dim=True)
    click.secho("           signature valid (node), ", fg="green", nl=False)
    click.secho(f"countersign valid (gateway): {agreed.verdict}", fg="green")
