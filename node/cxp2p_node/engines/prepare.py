"""Makes a job ready for a slot, beside the decoding: messages to tokens, schemas to grammars."""

from __future__ import annotations

import queue
from dataclasses import dataclass

from cxp2p.errors import JobFailed, RemoteProtocolError
from cxp2p.records import ChatJob, FailureCode, ToolMode
from cxp2p.wire import decode
from cxp2p_node.engines.constraints import Constraint, Constraints, GrammarError
from cxp2p_node.engines.frames import Failed, Start
from cxp2p_node.engines.grammar import grammar_of
from cxp2p_node.engines.llama_model import Model
from cxp2p_node.engines.prompt import ChatTemplate, begins_to_think, thoughts_ended

LETTERS_PER_TOKEN = 8  # twice the usual: prompts of up to so many letters are read whole
CUT_TOKENS_MAX = 64  # what a cut in the middle of a word may add


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job with its prompt in tokens, or why there is none."""

    start: Start
    chat: ChatJob | None = None
    prompt: tuple[int, ...] = ()
    thinking: bool = False
    constraint: Constraint | None = None
    fault: Failed | None = None


class Starts:
    """Jobs that wait to be prepared, in order; those that are stopped meanwhile are passed over. Thread-safe."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Start] = queue.SimpleQueue()
        self._stopped: set[int] = set()
        self._newest = -1  # job numbers rise

    def put(self, start: Start) -> None:
        self._queue.put(start)

    def stop(self, number: int) -> None:
        """The job is not wanted any more; nothing happens if it has been taken."""
        if number > self._newest:
            self._stopped.add(number)

    def get(self) -> Start:
        """The next job that is still wanted; waits for it."""
        while True:
            start = self._queue.get()
            self._newest = start.job
            stopped = start.job in self._stopped
            # A stop that comes between these two lines is lost here; the worker itself heeds it too.
            self._stopped = {number for number in self._stopped if number > start.job}
            if not stopped:
                return start


class Desk:
    """Turns jobs into tokens and grammars. Beside the decoding, as a prompt of megabytes takes seconds."""

    def __init__(self, model: Model, template: ChatTemplate) -> None:
        self._model = model
        self._template = template
        self._constraints: Constraints | None = None

    def prepare(self, start: Start) -> Prepared:
        """Never raises for what a stranger sent: the fault is in what it returns."""
        try:
            return self._prepare(start)
        except JobFailed as error:
            fault = Failed(job=start.job, code=error.code, reason=error.reason, limit=error.limit, actual=error.actual)
        except RemoteProtocolError as error:
            fault = failed(start, FailureCode.REQUEST_UNSUPPORTED, str(error))
        except GrammarError as error:
            fault = failed(start, FailureCode.SCHEMA_INVALID, str(error))
        return Prepared(start, fault=fault)

    def _prepare(self, start: Start) -> Prepared:
        chat = decode(ChatJob, start.request)
        tools = () if chat.tool_mode is ToolMode.NONE else chat.tools
        text = self._template.render(chat.messages, tools, thinking=chat.thinking)
        grammar = grammar_of(chat, self._template.tool_format)
        if grammar is not None and grammar.whole:
            text = thoughts_ended(text)  # the grammar begins with the answer
        prompt = self._tokens(text)
        constraint = None
        if grammar is not None:
            constraint = self._all_constraints().constrain(grammar.text, lands=grammar.whole)
        return Prepared(start, chat, prompt, begins_to_think(text), constraint)

    def _tokens(self, text: str) -> tuple[int, ...]:
        """The tokens of a prompt that fits. Of one that is far too long only a beginning is read, and the rest guessed.

        Some texts of megabytes take llama.cpp many minutes (its time is quadratic in the number of special tokens).
        """
        room = self._model.context_units
        size = LETTERS_PER_TOKEN * room
        while size < len(text):
            count = len(self._model.tokenize(text[:size]))
            if count > room + CUT_TOKENS_MAX:
                raise _too_long(count * len(text) // size, room)
            size *= 2
        tokens = tuple(self._model.tokenize(text))
        if not 0 < len(tokens) < room:
            raise _too_long(len(tokens), room)
        return tokens

    def _all_constraints(self) -> Constraints:
        if self._constraints is None:
            self._constraints = self._model.constraints()
        return self._constraints


def _too_long(count: int, room: int) -> JobFailed:
    return JobFailed(FailureCode.CONTEXT_LENGTH, f"the prompt has {count} tokens, the context {room}", room, count)


def failed(start: Start, code: FailureCode, reason: str) -> Failed:
    """The answer to a job that cannot be done."""
    return Failed(job=start.job, code=code, reason=reason[:512], limit=0, actual=0)
