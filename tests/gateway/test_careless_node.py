"""A node that ignores the form of an answer, seen from HTTP: through the real gateway, its books and real nodes."""

from __future__ import annotations

from random import Random

import pytest
from trio.testing import MockClock

from cxp2p.records import Finish, Job, Piece, Usage
from cxp2p_gateway.accounts import found_account, issue_key
from cxp2p_gateway.http import make_app
from cxp2p_node.engines import Counted, Emit
from doors import CHAT, ask, chat_body
from gates import CREDIT, gateway
from worlds import ScriptedEngine


class Careless(ScriptedEngine):
    """Offers the model, and ignores the form of an answer."""

    async def run(self, job: Job, seed: int, max_out: int, emit: Emit, counted: Counted) -> Usage:
        counted(1, 0)
        await emit(Piece(text="Sure! Here it is.", token_ids=(1,)))
        return Usage(in_units=1, cached_units=0, out_units=1, finish=Finish.STOP)


@pytest.mark.parametrize("careless", [1, 2])
async def test_a_client_gets_the_answer_of_a_node_that_holds_to_the_form(
    careless: int, autojump_clock: MockClock
) -> None:
    """The whole way from HTTP to the nodes and back. Who ignores the form is passed over, and gets nothing."""
    async with gateway() as (here, gate):
        bad = [await here.node(Careless()) for _ in range(careless)]
        good = await here.node(ScriptedEngine())
        await gate.live(careless + 1)
        app = make_app(gate.door(here.wall_ms))
        assert await found_account(gate.store, CREDIT, here.wall_ms(), Random(1)) is not None
        key = await issue_key(gate.store, "user_1", here.wall_ms(), Random(2))
        body = chat_body(model="echo", response_format="json_object") | {
            "messages": [{"role": "user", "content": '{"age": 5}'}]
        }
        statuses = [(await ask(app, "POST", CHAT, body=body, key=key)).status for _ in range(6)]
        assert statuses.count(200) >= 5  # two that are careless may be asked one after the other, once
        assert statuses[-1] == 200
        assert all(gate.balance(f"node:{node.network.peer}") == 0 for node in bad)
        assert gate.balance(f"node:{good.network.peer}") > 0
