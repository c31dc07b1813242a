"""Looks at a server: whether it is there, has the model, and what program it is."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import trio

from cxp2p.errors import one_line
from cxp2p_node.engines.upstream_ask import Facts, Maker, count_of, facts_of_models
from cxp2p_node.engines.upstream_events import parsed
from cxp2p_node.engines.upstream_faults import Kind, ServerFault, fault_of_status
from cxp2p_node.engines.upstream_http import Client, Response

LOOK_S_MAX = 10.0
ERROR_BYTES_MAX = 64 * 1024
FACTS_BYTES_MAX = 4 * 1024 * 1024  # some servers list hundreds of models, or hand out their chat template
VERSION_CHARS_MAX = 40


async def look(client: Client, model: str, *, sole: bool, known: Facts | None) -> Facts:
    """What the server tells of `model` now. `known`: what this same server has told before.

    Raises ServerFault if it does not answer, or does not have the model.
    """
    try:
        with trio.fail_after(LOOK_S_MAX):
            facts = facts_of_models(await _get(client, f"{client.server.path}/models"), model, sole=sole)
            if known is None or known.model != facts.model:
                return await _introduced(client, facts)
    except trio.TooSlowError:
        raise ServerFault(Kind.GONE, f"it did not answer in {LOOK_S_MAX:g} s") from None
    return replace(known, context_units=facts.context_units or known.context_units)


async def check(client: Client, response: Response) -> None:
    """Raises ServerFault for an answer that is an error."""
    if response.status != 200:
        body = await response.body(ERROR_BYTES_MAX)
        again = response.headers.get("retry-after", "")
        raise fault_of_status(response.status, body, again, client.server.key)


async def _get(client: Client, path: str) -> dict[str, Any]:
    async with client.exchange("GET", path) as response:
        await check(client, response)
        return parsed(await response.body(FACTS_BYTES_MAX))


async def _introduced(client: Client, facts: Facts) -> Facts:
    """The program's version, and what else it tells beside OpenAI's API; without them it is offered as well."""
    root = client.server.root
    paths = {
        Maker.VLLM: (f"{root}/version",),
        Maker.SGLANG: (f"{root}/server_info", f"{root}/get_server_info"),
        Maker.LLAMA_CPP: (f"{root}/props",),
        Maker.OTHER: (f"{root}/api/version",),  # only Ollama has it
    }
    for path in paths.get(facts.maker, ()):
        with suppress(ServerFault):
            told = await _get(client, path)
            version = told.get("version", told.get("build_info"))
            if isinstance(version, str):
                facts = replace(
                    facts,
                    maker=Maker.OLLAMA if facts.maker is Maker.OTHER else facts.maker,
                    version=one_line(version, VERSION_CHARS_MAX),
                    slots=count_of(told.get("total_slots")),
                )
                break
    return facts
