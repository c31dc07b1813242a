"""What would keep a program from starting, found before it starts: nothing is made, changed or left behind."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from cxp2p.errors import IdentityError, SettingsError
from cxp2p.identity import load_identity
from cxp2p.peer import PeerSettings, check_peer, reach
from cxp2p.program import announce

FAULT_STATUS: Final = 1


class Standing(StrEnum):
    """What a finding means for a start."""

    OK = "ok"
    NOTE = "note"  # no hindrance, and maybe not what was meant
    FAULT = "fault"  # it would not start


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: `what` by one word, and in `text` what would be used, or what is wrong."""

    what: str
    standing: Standing
    text: str


def ok(what: str, text: str) -> Finding:
    """A finding that is as it should be."""
    return Finding(what, Standing.OK, text)


def note(what: str, text: str) -> Finding:
    """A finding that somebody may want to know."""
    return Finding(what, Standing.NOTE, text)


def fault(what: str, error: object) -> Finding:
    """A finding that keeps a program from starting."""
    return Finding(what, Standing.FAULT, str(error))


def check_file(path: Path) -> Finding:
    """Which settings file is read."""
    return ok("settings", str(path)) if path.exists() else note("settings", f"there is no file {path}: defaults")


def check_folder(path: Path) -> Finding:
    """Whether a program can keep its state in `path`, which may not be there yet."""
    nearest = next(each for each in (path, *path.parents) if each.exists())
    if not nearest.is_dir():
        return fault("data", f"{nearest} is no folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        return fault("data", f"this user may not write in {nearest}")
    return ok("data", str(path)) if nearest == path else ok("data", f"{path}, which the first start makes")


def check_key(settings: PeerSettings, path: Path) -> Finding:
    """Whether the peer's key can be used."""
    if not path.exists():
        return ok("key", f"{path}, which the first start makes")
    passphrase = settings.passphrase.get_secret_value() if settings.passphrase else None
    try:
        return ok("key", f"{path}: peer {load_identity(path, passphrase).peer}")
    except IdentityError as error:
        return fault("key", error)
    except OSError as error:
        return fault("key", f"key file {path} cannot be read: {error.strerror}")


def check_addresses(settings: PeerSettings, *, ports: bool) -> Iterator[Finding]:
    """Whether the peer's addresses are some. `ports`: whether those to listen on are free, too."""
    try:
        check_peer(settings, ports=ports)
    except SettingsError as error:
        yield fault("peer", f"peer.{error}")
        return
    yield ok("peer", f"listens on {', '.join(settings.listen) or 'nothing'}")
    if settings.bootstrap:
        yield ok("bootstrap", ", ".join(settings.bootstrap))
    else:
        yield note("bootstrap", "peer.bootstrap is empty: others have to find this peer")


async def check_network(settings: PeerSettings) -> list[Finding]:
    """Whether the bootstrap peers answer: one that does is enough to join."""
    wrong = await reach(settings)
    missing = note if "" in wrong.values() else fault
    return [missing("network", text) if text else ok("network", f"{each} answers") for each, text in wrong.items()]


def report(findings: Iterable[Finding], *, as_json: bool) -> int:
    """Tells all findings, and returns the exit status: 1 if one of them is a fault."""
    status = 0
    for each in findings:
        if each.standing is Standing.FAULT:
            status = FAULT_STATUS
        facts = {"event": "check", "what": each.what, "standing": each.standing.value, "text": each.text}
        announce(facts, f"{each.standing.value:5}  {each.what:9}  {each.text}", as_json=as_json)
    return status
