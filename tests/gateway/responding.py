"""Requests of the Responses API over a door in memory, nodes that send given pieces, and a look at all events."""

from __future__ import annotations

from typing import Any

from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from cxp2p.client import Emit
from cxp2p.records import CallPart, ChatJob, Finish, Piece
from cxp2p_gateway.waiting import Patience
from doors import Answer, MemoryDoor, Work, ask, front

PATH = "/v1/responses"
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CITIES = ('{"city":"Oslo"}', '{"city":"Rome"}')
CALLS = (
    Piece(calls=(CallPart(number=0, name="get_weather"),), token_ids=(1,)),
    Piece(calls=(CallPart(number=0, arguments='{"city":'),), token_ids=(2,)),
    Piece(
        calls=(
            CallPart(number=0, arguments='"Oslo"}'),
            CallPart(number=1, name="get_weather", arguments='{"city":"Rome"}'),
        ),
        token_ids=(3,),
    ),
)


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "smollm2:135m", "input": "Hi", **changes}


def makes(*pieces: Piece, finish: Finish = Finish.STOP) -> Work:
    """A node that sends these pieces."""

    async def work(job: ChatJob, emit: Emit) -> Finish:
        for piece in pieces:
            await emit(piece)
        return finish

    return work


async def respond(work: Work | None = None, *, patience: Patience | None = None, **changes: Any) -> Answer:
    door = MemoryDoor() if work is None else MemoryDoor(work=work)
    return await ask(front(door, patience), "POST", PATH, body=body(**changes))


def types(answer: Answer) -> list[str]:
    return [event["type"] for event in answer.events()]


def check_events(answer: Answer) -> None:
    """OpenAI's package reads all events; their names stand before them; numbers go up by one."""
    for number, event in enumerate(answer.events()):
        EVENT.validate_python(event)
        assert event["sequence_number"] == number
    blocks = [block for block in answer.body.decode().split("\n\n") if block and not block.startswith(":")]
    names = [block.split("\n")[0] for block in blocks]
    assert names == [f"event: {kind}" for kind in types(answer)]


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FORM = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}}
