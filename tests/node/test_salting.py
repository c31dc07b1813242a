"""Askers are apart in the nodes' prefix caches, whatever salts they send."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from trio.testing import MockClock

from cxp2p.records import ChatJob, EmbedJob, Job, Usage
from cxp2p_node.engines import Counted, Emit
from cxp2p_node.salting import salted
from strangers import REQUEST, gate, lane
from worlds import ScriptedEngine, chat_job


@dataclass
class Listening(ScriptedEngine):
    """Keeps the salts of its jobs."""

    salts: list[bytes] = field(default_factory=list)

    async def run(self, job: Job, seed: int, max_out: int, emit: Emit, counted: Counted) -> Usage:
        assert isinstance(job, ChatJob)
        self.salts.append(job.cache_salt)
        return await super().run(job, seed, max_out, emit, counted)


def salt_of(job: ChatJob, asker: str) -> bytes:
    made = salted(job, asker)
    assert isinstance(made, ChatJob)
    assert replace(made, cache_salt=job.cache_salt) == job
    return made.cache_salt


@pytest.mark.parametrize("salt", [b"", b"a", b"x" * 32])
def test_two_askers_never_have_the_same_salt(salt: bytes) -> None:
    """Nor two salts of one; the same of the same stays the same, so that its own prompts are found again."""
    job = replace(chat_job(), cache_salt=salt)
    assert salt_of(job, "one") == salt_of(job, "one")
    assert salt_of(job, "one") != salt_of(job, "two")
    assert salt_of(job, "one") != salt_of(replace(job, cache_salt=salt[1:] + b"y"), "one")


def test_jobs_without_prompts_stay_as_they_are() -> None:
    job = EmbedJob(model="m", inputs=("x",))
    assert salted(job, "one") is job


async def test_an_engine_gets_the_salt_of_who_asks(autojump_clock: MockClock) -> None:
    engine = Listening()
    async with gate(engine) as door:
        await door.hear_all(door.ask(door.order(REQUEST, lane()), REQUEST))
    assert [len(salt) for salt in engine.salts] == [32]
