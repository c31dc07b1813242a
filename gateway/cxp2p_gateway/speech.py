"""POST /tts and /audio/speech, GET /audio/voices: a text becomes sound, whole or as it comes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import trio
from starlette.types import Receive, Scope, Send

from cxp2p.client import Spoken
from cxp2p.errors import CxError, JobFailed
from cxp2p.records import FailureCode, Service
from cxp2p_gateway import openai, sse
from cxp2p_gateway.asking import Door
from cxp2p_gateway.audio import MIME, RATE, AudioForm, Encoder, wav_header
from cxp2p_gateway.exchange import Exchange
from cxp2p_gateway.faults import Fault, cut_of, fault_of, out_of_range
from cxp2p_gateway.limits import may_use
from cxp2p_gateway.means import JobEndpoint, Means
from cxp2p_gateway.middleware import encoded, send_json
from cxp2p_gateway.openai import SpeechAsk
from cxp2p_gateway.reading import Lease, read_json
from cxp2p_gateway.waiting import note_outcomes, result_of, room_in, watch

BYTES_AT_ONCE: Final = 64 * 1024  # are encoded before others get their turn: some milliseconds


@dataclass(slots=True)
class _Work:
    """One request on its way. `lease`: the room that sound takes which is not sent yet."""

    ask: SpeechAsk
    voice: str
    exchange: Exchange
    generation: str
    wait_s: float
    lease: Lease
    ending: Spoken | Fault | None = None


class Speech(JobEndpoint):
    """An endpoint that reads texts aloud. `parse`: from its body to what is wanted."""

    def __init__(self, means: Means, parse: Callable[[dict[str, Any]], SpeechAsk]) -> None:
        super().__init__(means)
        self._parse = parse

    async def __call__(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        with self._budget.lease() as lease:
            ask = self._parse(await read_json(exchange.headers, receive, lease))
            voice = openai.voice_for(ask, offered_voices(self._door))
            work = _Work(
                ask=ask,
                voice=voice,
                exchange=exchange,
                generation=f"speech-{self._outside.new_id()}",
                wait_s=self._patience.wait_s(exchange),
                lease=lease,
            )
            exchange.will_stream(ask.streamed)
            exchange.notes |= {"model": voice, "letters": len(ask.text), "generation": work.generation}
            sound = _Streamed(work, send) if ask.streamed else _Whole(work, send)
            with self._places.take(voice):
                await self._answer(work, sound, receive)

    async def _answer(self, work: _Work, sound: _Streamed | _Whole, receive: Receive) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, work.exchange, receive, nursery.cancel_scope)
            await self._run(work, sound)
            nursery.cancel_scope.cancel()
        spoken = result_of(work.exchange, work.ending)
        note_outcomes(work.exchange, spoken.outcomes)
        await sound.end(spoken)

    async def _run(self, work: _Work, sound: _Streamed | _Whole) -> None:
        """Leaves in `work` how it ended; nothing there means that time ran out."""
        exchange, ask = work.exchange, work.ask
        assert exchange.caller is not None
        with trio.move_on_after(work.wait_s):
            try:
                work.ending = await self._door.speak(
                    exchange.caller,
                    work.generation,
                    work.voice,
                    ask.text,
                    sound.hear,
                    speed=ask.speed,
                    deadline_s=work.wait_s,
                )
            except CxError as error:
                fault = cut_of(error) if exchange.status else self._fault_of(error, work)
                if fault is None:
                    raise
                work.ending = fault

    def _fault_of(self, error: CxError, work: _Work) -> Fault | None:
        if isinstance(error, JobFailed) and error.code is FailureCode.REQUEST_UNSUPPORTED:
            return out_of_range(work.ask.param, f"the voice {work.voice} can read nothing of it")
        return fault_of(error, work.voice, self._door.knows(work.voice), Service.SPEECH)


class _Whole:
    """Holds the sound until all of it is there: its size is in its head."""

    def __init__(self, work: _Work, send: Send) -> None:
        self._work = work
        self._send = send
        form = work.ask.form
        self._encoder = Encoder(AudioForm.PCM if form is AudioForm.WAV else form)
        self._made = bytearray()
        self._took = room_in(work.lease)

    async def hear(self, data: bytes) -> None:
        for start in range(0, len(data), BYTES_AT_ONCE):
            made = self._encoder.feed(data[start : start + BYTES_AT_ONCE])
            self._took(len(made))
            self._made += made
            await trio.lowlevel.checkpoint()

    async def end(self, spoken: Spoken) -> None:
        self._made += self._encoder.end()
        head = wav_header(len(self._made)) if self._work.ask.form is AudioForm.WAV else b""
        headers = [
            *headers_of(self._work),
            ("content-length", str(len(head) + len(self._made))),
            ("x-cx-audio-seconds", f"{spoken.audio_ms / 1000:.3f}"),
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": encoded(headers)})
        await self._send({"type": "http.response.body", "body": head + bytes(self._made)})


class _Streamed:
    """Sends the sound as it comes. One that breaks off ends without its last chunk, so that it does not look whole."""

    def __init__(self, work: _Work, send: Send) -> None:
        self._work = work
        self._send = send
        self._encoder = Encoder(work.ask.form)

    async def hear(self, data: bytes) -> None:
        for start in range(0, len(data), BYTES_AT_ONCE):
            made = self._encoder.feed(data[start : start + BYTES_AT_ONCE])
            await self._begin()
            if made:
                await self._send({"type": "http.response.body", "body": self._framed(made), "more_body": True})
            await trio.lowlevel.checkpoint()

    async def end(self, spoken: Spoken) -> None:
        made = self._encoder.end()
        last = self._framed(made) if made else b""
        if self._work.ask.events:
            last += openai.done_event(len(self._work.ask.text), spoken.audio_ms)
        await self._begin()
        await self._send({"type": "http.response.body", "body": last})

    def _framed(self, data: bytes) -> bytes:
        return openai.audio_event(data) if self._work.ask.events else data

    async def _begin(self) -> None:
        """Sends the status line, once."""
        exchange = self._work.exchange
        if exchange.status:
            return
        exchange.streaming = self._work.ask.events
        headers = [*headers_of(self._work), *(sse.HEADERS if self._work.ask.events else ())]
        await self._send({"type": "http.response.start", "status": 200, "headers": encoded(headers)})


def headers_of(work: _Work) -> list[tuple[str, str]]:
    """Which voice spoke, under which id, and what the bytes are."""
    headers = [("x-cx-generation-id", work.generation), ("x-cx-voice", work.voice)]
    if work.ask.form is AudioForm.PCM:
        headers.append(("x-cx-sample-rate", str(RATE)))
    return headers if work.ask.events else [*headers, ("content-type", MIME[work.ask.form])]


def offered_voices(door: Door) -> list[str]:
    """The voices that live nodes offer now, by name."""
    return [card.model for card in door.models() if card.service is Service.SPEECH]


@dataclass(frozen=True, slots=True)
class Voices:
    """All voices that live nodes offer, and that the key may use."""

    door: Door

    async def __call__(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        assert exchange.caller is not None
        usable = [each for each in offered_voices(self.door) if may_use(exchange.caller, Service.SPEECH, each)]
        await send_json(openai.voice_list(usable), send)
