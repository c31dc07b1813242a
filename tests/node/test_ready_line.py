"""What `cxp2p node run` says of its models when it is ready: loaded, on demand, or why not."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from cxp2p_node.commands import _ready
from shelves import Memory, Script, shelf_of
from tiny_model import write_tiny_model
from worlds import ScriptedEngine, world

PATIENCE_S = 60.0


async def test_the_ready_line_says_what_is_loaded_and_what_is_on_demand(autojump_clock: MockClock) -> None:
    memory = Memory(1)
    scripts = Script(memory, "first"), Script(memory, "second")
    async with world() as here:
        shelf = await here.stack.enter_async_context(shelf_of(memory, *scripts))
        node = await here.node(*shelf.models, ScriptedEngine(name="third"))
        facts, line = _ready(node)
        assert facts["models"] == ["first", "second", "third"]
        assert (facts["loaded"], facts["on_demand"], facts["failed"]) == (["first", "third"], ["second"], {})
        assert f"node {node.network.peer} serves first, second (on demand), third at " in line


async def test_a_model_that_failed_is_named_with_its_fault(autojump_clock: MockClock) -> None:
    memory = Memory(2)
    async with world() as here:
        scripts = Script(memory, "good"), Script(memory, "bad", faults=["bad cannot be loaded: why"])
        shelf = await here.stack.enter_async_context(shelf_of(memory, *scripts))
        facts, line = _ready(await here.node(*shelf.models))
        assert (facts["models"], facts["failed"]) == (["good"], {"bad": "bad cannot be loaded: why"})
        assert " serves good, not bad (see above) at " in line


def write_settings(folder: Path, mib: int, more: str = "") -> Path:
    """Settings of two tiny models, of which one fits into a hundred MiB, and of one whose file was cut."""
    for name in ("one", "two"):
        write_tiny_model(folder / f"{name}.gguf")
    (folder / "cut.gguf").write_bytes((folder / "one.gguf").read_bytes()[:100_000])
    models = "".join(
        f'[[models]]\nname = "{name}"\npath = "{folder}/{name}.gguf"\nthreads = 1\n{more}'
        for name in ("one", "two", "cut")
    )
    path = folder / "node.toml"
    peer = '[peer]\nlisten = ["/ip4/127.0.0.1/tcp/0"]\n'
    path.write_text(f'data_path = "{folder}/data"\n{peer}[memory]\nmodels_mib_max = {mib}\n{models}')
    return path


@pytest.mark.slow
async def test_a_node_with_more_models_than_memory_starts_and_says_so(tmp_path: Path) -> None:
    """The real command, with real workers."""
    settings = write_settings(tmp_path, 100)
    command = [sys.executable, "-m", "cxp2p", "node", "run", "--config", str(settings), "--json"]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        said = b""
        with trio.fail_after(PATIENCE_S):
            while (data := await process.stdout.receive_some()) and b"\n" not in said + data:
                said += data
            said += data
        facts = json.loads(said.splitlines()[0])
        assert facts["event"] == "ready"
        assert (facts["models"], facts["loaded"], facts["on_demand"]) == (["one", "two"], ["one"], ["two"])
        assert "it is not whole" in facts["failed"]["cut"]
    finally:
        process.send_signal(signal.SIGINT)
        await process.wait()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mib", "more", "said"),
    [
        (20, "", r"error: models: one needs \d+ MiB of memory, and 20 MiB are allowed: lower"),
        (100, "keep = true\n", r"error: models: one, two are to be kept and need \d+ MiB of memory, and 100 MiB are"),
        (100, "keep = true\nidle_s = 5\n", "keep and idle_s: a model that is kept is never idle too long"),
    ],
)
async def test_a_node_that_can_never_do_what_its_settings_say_does_not_start(
    tmp_path: Path, mib: int, more: str, said: str
) -> None:
    settings = write_settings(tmp_path, mib, more)
    command = [sys.executable, "-m", "cxp2p", "node", "run", "--config", str(settings)]
    with trio.fail_after(PATIENCE_S):
        ended = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    assert ended.returncode == 1
    assert re.search(said, ended.stderr.decode())
