"""Asks the gateway for a web page."""

from __future__ import annotations

import textwrap
import time

import click
import httpx

from demo.asking import headers_of, print_facts, print_receipt
from demo.network import Network

LINES_SHOWN = 12
LETTERS_SHOWN = 100  # of each


def scrape(network: Network, url: str) -> str:
    """One page as Markdown: its title, its first lines, and the receipt. Returns its id. Raises ValueError."""
    click.secho(f"\n> {url}", bold=True)
    started = time.perf_counter()
    reply = httpx.post(
        f"{network.base_url}/scrape",
        json={"urls": [url]},
        headers={**headers_of(network), "X-Cx-Metadata": "enabled"},
        timeout=60,
    ).raise_for_status()
    seconds = time.perf_counter() - started
    (result,) = reply.json()["results"]
    if not result["success"]:
        raise ValueError(f"{url} was not fetched: {result['error']} ({result['code']})")
    metadata, content = result["metadata"], result["content"]
    click.echo(f"{metadata['title']} ({metadata['author']}, {metadata['publish_date']}): {metadata['description']}")
    lines = [line for line in content.splitlines() if line.strip()]
    for line in lines[:LINES_SHOWN]:
        click.echo(f"  {textwrap.shorten(line, LETTERS_SHOWN) if len(line) > LETTERS_SHOWN else line}")
    print_facts(f"{len(content)} letters of Markdown in {seconds:.2f} s", reply.json()["cx"])
    print_receipt(network, reply.headers["x-cx-generation-id"], 1)
    return reply.headers["x-cx-generation-id"]
