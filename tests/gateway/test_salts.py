"""Cache salts: what keeps accounts apart in the nodes' prefix caches."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from trio.testing import MockClock

from cxp2p.identity import identity_from_seed, load_identity
from cxp2p.records import ChatJob, EmbedJob, Job, Message, Role, Usage
from cxp2p_gateway.salts import SALT_BYTES, CacheSalts
from cxp2p_node.engines import Counted, Emit
from gates import CALLER, OTHER, gateway
from worlds import ScriptedEngine, chat_job

JOB = ChatJob(model="m", messages=(Message(role=Role.USER, content="x"),))


def test_each_account_has_a_salt_of_its_own() -> None:
    """The same in every job; another for another account, and in another gateway."""
    salts, others = CacheSalts(b"a" * 32), CacheSalts(b"b" * 32)
    one = salts.of("user_1")
    assert len(one) == SALT_BYTES
    assert one == salts.of("user_1")
    assert len({one, salts.of("user_2"), others.of("user_1"), others.of("user_2"), salts.of("")}) == 5


def test_a_salt_outlives_its_process(tmp_path: Path) -> None:
    """It comes from the gateway's key, which stays in its file."""
    made = [CacheSalts(load_identity(tmp_path / "key").secret("cache-salt")).of("user_1") for _ in range(2)]
    assert made[0] == made[1]
    assert made[0] != CacheSalts(load_identity(tmp_path / "other").secret("cache-salt")).of("user_1")


def test_a_secret_is_for_one_purpose() -> None:
    """None of them is the key, or tells another."""
    identity = identity_from_seed(b"s" * 32)
    secrets = {identity.secret(purpose) for purpose in ("cache-salt", "cache", "")}
    assert len(secrets) == 3
    assert b"s" * 32 not in secrets
    assert identity.secret("cache-salt") == identity_from_seed(b"s" * 32).secret("cache-salt")


def test_only_chats_are_salted() -> None:
    """The job is otherwise as it was; vectors have nothing to share."""
    salts = CacheSalts(b"a" * 32)
    salted = salts.salted(JOB, "user_1")
    assert isinstance(salted, ChatJob)
    assert salted.cache_salt == salts.of("user_1")
    assert (salted.model, salted.messages) == (JOB.model, JOB.messages)
    embed = EmbedJob(model="m", inputs=("x",))
    assert salts.salted(embed, "user_1") is embed


class Noting(ScriptedEngine):
    """Notes the salts of the jobs that reach it."""

    salts: ClassVar[list[bytes]] = []

    async def run(self, job: Job, seed: int, max_out: int, emit: Emit, counted: Counted) -> Usage:
        assert isinstance(job, ChatJob)
        self.salts.append(job.cache_salt)
        return await super().run(job, seed, max_out, emit, counted)


@pytest.mark.parametrize("apart", [True, False])
async def test_what_reaches_a_node_is_salted_unless_accounts_share(apart: bool, autojump_clock: MockClock) -> None:
    """Whatever a job brought along: nobody chooses another account's salt."""
    engine = Noting()
    engine.salts.clear()
    async with gateway() as (here, gate):
        await here.node(engine)
        await gate.live(1)
        salts = CacheSalts(b"a" * 32) if apart else None
        door = gate.door(here.wall_ms, salts)
        for caller in (CALLER, OTHER, CALLER):
            await door.run(caller, "chatcmpl-1", chat_job(), gate.take, deadline_s=60)
    first, second, again = engine.salts
    assert first == again
    assert (first != second) is apart
