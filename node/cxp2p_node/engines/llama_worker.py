"""The process that holds a llama.cpp model: jobs in on standard input, pieces out on standard output.

Run by `engines.llama`, never by a person. It ends when standard input closes, whatever it is doing: an orphan must not
keep a model in memory. One thread listens, one makes prompts of jobs, and this one computes. The model's chat template
has a process of its own, which ends with this one.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO

import llama_cpp
from pydantic import TypeAdapter

from cxp2p.errors import one_line
from cxp2p_node.engines.frames import Frames, Loaded, Start, Stop, Unfit, pack
from cxp2p_node.engines.llama_library import LoadError
from cxp2p_node.engines.llama_loop import Inbox, Loop
from cxp2p_node.engines.llama_model import Brake, Model
from cxp2p_node.engines.pace import Pace
from cxp2p_node.engines.prepare import Desk, Starts
from cxp2p_node.engines.prompt import CHATML, ChatTemplate
from cxp2p_node.engines.serving import Serving
from cxp2p_node.engines.slots import Part
from cxp2p_node.engines.thread_faults import end_with_traceback
from cxp2p_node.templates.apart import Apart
from cxp2p_node.templates.sandbox import TemplateFault

EXIT_UNFIT = 3
PREPARING_STACK_BYTES = 512 * 1024 * 1024  # reserved, not filled: a schema of thousands of references takes 100 MiB
WARM_UP_TOKENS = 16


def keep_preparing(starts: Starts, inbox: Inbox, desk: Desk) -> None:
    while True:
        inbox.put(desk.prepare(starts.get()))


def listen(source: BinaryIO, starts: Starts, inbox: Inbox, brakes: list[Brake]) -> None:
    """Reads commands until standard input closes, then ends the process, also in the middle of a decode."""
    frames = Frames()
    while data := os.read(source.fileno(), 1 << 16):
        for message in frames.feed(data):
            if isinstance(message, Start):
                starts.put(message)
                continue
            if isinstance(message, Stop):
                starts.stop(message.job)
            inbox.put(message)
            if isinstance(message, Stop):
                for brake in brakes:
                    brake.stop(message.job)
    os._exit(0)


def warm_up(model: Model, prompt_steps_max: float) -> Pace:
    """The first decodes are slow: have them before the first job, and then see how fast the others are."""
    pace = Pace(model.batch_max, prompt_steps_max)
    count = min(WARM_UP_TOKENS, model.batch_max, model.context_units - 2)
    for _ in range(2):
        begun = time.monotonic()
        model.decode([Part(0, 0, [0] * count, True)])
        read = time.monotonic()
        model.decode([Part(0, count, [0], True)])
        stepped = time.monotonic()
        model.forget(0, 0)
    pace.prompted(count, 0, read - begun)
    pace.stepped(1, stepped - read)
    return pace


def main() -> None:
    """`python -m cxp2p_node.engines.llama_worker PATH SERVING`, the latter as JSON."""
    path, serving = Path(sys.argv[1]), TypeAdapter(Serving).validate_json(sys.argv[2])
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # llama.cpp prints to standard output now and then; frames must stay alone
    threading.excepthook = end_with_traceback
    inbox: Inbox = queue.SimpleQueue()
    starts = Starts()
    brakes: list[Brake] = []
    threading.Thread(target=listen, args=(sys.stdin.buffer, starts, inbox, brakes), daemon=True).start()
    try:
        model = Model(path, serving)
        source = model.template() or CHATML
        template = ChatTemplate(source, Apart(source, bos=model.bos(), eos=model.eos()))
        model.show(template.tool_format.marks)
        pace = warm_up(model, serving.prompt_steps_max)
    except (LoadError, TemplateFault) as error:
        out.write(pack(Unfit(reason=str(error)[:512])))
        out.flush()
        raise SystemExit(EXIT_UNFIT) from None
    brakes.append(model.brake)
    runtime = f"llama.cpp {llama_cpp.__version__} {model.description()}"
    out.write(pack(Loaded(runtime=one_line(runtime, 128), context_units=model.context_units)))
    out.flush()
    threading.stack_size(PREPARING_STACK_BYTES)
    threading.Thread(target=keep_preparing, args=(starts, inbox, Desk(model, template)), daemon=True).start()
    Loop(model, pace, template.tool_format, serving.sizes.slots, inbox, out).run()


if __name__ == "__main__":
    main()
