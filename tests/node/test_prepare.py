"""Prompts become tokens beside the decoding, one after another: none may hold up the others for long."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from cxp2p.records import ChatJob, FailureCode, Message, Role
from cxp2p.wire import encode
from cxp2p_node.engines.frames import Start
from cxp2p_node.engines.prepare import Desk, Starts
from cxp2p_node.engines.prompt import CHATML, ChatTemplate
from cxp2p_node.templates.sandbox import Template


class Counting:
    """Has the size of a model, and keeps how much it was given to read: a token for every `letters` letters."""

    context_units = 8192

    def __init__(self, letters: int) -> None:
        self.letters = letters
        self.read: list[int] = []

    def tokenize(self, prompt: str) -> list[int]:
        self.read.append(len(prompt))
        return [0] * (len(prompt) // self.letters)


def start(text: str, number: int = 1) -> Start:
    job = ChatJob(model="m", messages=(Message(role=Role.USER, content=text),))
    return Start(job=number, request=encode(job), seed=1, max_out=1, credit=1)


def desk(letters: int) -> tuple[Desk, Counting]:
    model = Counting(letters)
    return Desk(cast(Any, model), ChatTemplate(CHATML, Template(CHATML, bos="", eos=""))), model


@pytest.mark.parametrize("letters", [1, 4, 12, 60])
def test_a_huge_prompt_is_refused_by_its_beginning(letters: int) -> None:
    """Of sixteen megabytes no more is read than it takes to see that they are too many."""
    counter, model = desk(letters)
    size = 16 << 20
    prepared = counter.prepare(start("x" * size))

    assert prepared.fault is not None
    assert prepared.fault.code is FailureCode.CONTEXT_LENGTH
    assert prepared.fault.limit == model.context_units
    assert prepared.fault.actual == pytest.approx(size / letters, rel=0.01)
    assert sum(model.read) < 4 * model.context_units * max(letters, 8)


def test_a_prompt_that_may_fit_is_read_whole() -> None:
    """Long runs of white space make few tokens of many letters: such a prompt is no fault."""
    counter, model = desk(letters=200)
    prepared = counter.prepare(start(" " * 1_000_000))

    assert prepared.fault is None
    assert len(prepared.prompt) == model.read[-1] // 200
    assert model.read[-1] > 1_000_000


def test_a_prompt_that_is_a_little_too_long_is_counted_exactly() -> None:
    """Only estimates of huge prompts are estimates."""
    counter, model = desk(letters=4)
    prepared = counter.prepare(start("x" * 4 * model.context_units))

    assert prepared.fault is not None
    assert prepared.fault.actual == model.read[-1] // 4
    assert len(model.read) == 1


def test_a_prompt_that_was_stopped_is_not_read() -> None:
    """Jobs that are sent and stopped again do not pile up before those that are wanted."""
    starts = Starts()
    for number in range(1, 100):
        starts.put(start("x", number))
        starts.stop(number)
    starts.put(start("y", 100))
    heard: list[int] = []
    reader = threading.Thread(target=lambda: heard.append(starts.get().job), daemon=True)
    reader.start()
    reader.join(10)

    assert heard == [100]
    starts.stop(50)  # long over: nothing is kept of it
    assert not starts._stopped
