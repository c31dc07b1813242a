"""What `cxp2p models` tells of a model: facts for programs, lines for people."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TypeAlias

import trio

from cxp2p.errors import CxError
from cxp2p.program import plain
from cxp2p_node.catalog import find
from cxp2p_node.catalog.entries import CatalogEntry
from cxp2p_node.models.facts import ModelFacts, facts_of
from cxp2p_node.models.store import Store
from cxp2p_node.models.stored import Facts as StoredFacts
from cxp2p_node.models.voice import VoiceFacts, voice_facts

log = logging.getLogger("cxp2p.node.models")

Facts: TypeAlias = dict[str, object]

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """The memory that a node would give a model if nothing but its name were set."""

    bytes_needed: int
    slots: int
    context_units: int


def need_of(entry: CatalogEntry, store: Store) -> Need | None:
    """What serving it takes; None if it is not here or cannot be served, which is logged."""
    # Only this needs the engines.
    from cxp2p_node.config import ModelSettings  # noqa: PLC0415
    from cxp2p_node.engines.opening import loadable  # noqa: PLC0415

    if not store.has(entry):
        return None
    try:
        found = trio.run(loadable, ModelSettings(name=entry.name), store)
    except CxError as error:
        log.warning("%s", error)
        return None
    if found is None:
        return None
    return Need(
        bytes_needed=found.bytes_needed,
        slots=found.described.slots,
        context_units=found.described.context_units,
    )


def summary(entry: CatalogEntry, store: Store) -> Facts:
    """A model in a list."""
    here, record = store.has(entry), store.record(entry)
    service = entry.service or (record.service if record else None)
    need = need_of(entry, store)
    return {
        "model": entry.name,
        "service": str(service) if service else None,
        "installed": here,
        "path": str(store.file(entry)) if here else None,
        "bytes": (record.size_bytes if here and record else entry.size_bytes) or None,
        "bytes_exact": here or entry.sha256 is not None,
        "memory_bytes": need.bytes_needed if need else None,
        "licence": entry.licence.name,
        "licence_to_accept": entry.licence.accept,
        "context": entry.context_units or None,
        "parameters": entry.parameters or None,
        "size_class": str(entry.size_class) if entry.size_class else None,
        "own": find(entry.name) is None,
        "about": entry.about,
    }


def details(entry: CatalogEntry, store: Store) -> Facts:
    """All that is known of a model."""
    short = summary(entry, store)
    record, need = store.record(entry), need_of(entry, store)
    digest = store.digest(entry) if short["installed"] else entry.sha256
    found = _facts(entry, store) if short["installed"] else None
    facts = found if isinstance(found, ModelFacts) else None
    voice = found if isinstance(found, VoiceFacts) else None
    return {
        **short,
        "aliases": list(entry.aliases),
        "source": str(entry.source),
        "sha256": digest.hex() if digest else None,
        "licence_url": entry.licence.url or None,
        "licence_accepted": bool(record and record.licence_accepted),
        "dimensions": entry.dimensions or (facts.width if facts and facts.pooling else None),
        "matryoshka": entry.matryoshka,
        "note": entry.note or None,
        "pooling": entry.pooling or (facts.pooling if facts else None),
        "architecture": facts.architecture if facts else None,
        "quantisation": facts.quantisation if facts else None,
        "layers": facts.layers if facts else None,
        "vocabulary": facts.vocabulary if facts else None,
        "chat_template": facts.chat_template is not None if facts else None,
        "language": voice.language if voice else None,
        "sample_rate": voice.rate if voice else None,
        "speakers": voice.speakers if voice else None,
        "memory_slots": need.slots if need else None,
        "memory_context": need.context_units if need else None,
        "settings": settings_lines(entry),
    }


def _facts(entry: CatalogEntry, store: Store) -> StoredFacts | None:
    try:
        return voice_facts(store.file(entry)) if entry.is_voice else facts_of(store.file(entry))
    except (CxError, OSError) as error:
        log.warning("%s: %s", entry.name, error)
        return None


def imported(facts: StoredFacts) -> tuple[Facts, str, str]:
    """What a file is that was put into the store: for programs, in a few words, and what to know of it."""
    if isinstance(facts, VoiceFacts):
        kind: Facts = {"service": "speech", "architecture": "piper", "quantisation": facts.quality}
        return kind, f"Piper, {facts.language}, speech", ""
    kind = {"service": str(facts.service), "architecture": facts.architecture, "quantisation": facts.quantisation}
    what = f"{facts.architecture}, {facts.quantisation}, {'vectors' if facts.pooling else 'chat'}"
    missing = facts.pooling is None and facts.chat_template is None
    return kind, what, "no chat template in the file: prompts are written as ChatML" if missing else ""


def settings_lines(entry: CatalogEntry) -> str:
    """What to put into a node's settings to serve it."""
    return f'[[models]]\nname = "{entry.name}"\n'


def size(count: object) -> str:
    """Bytes for people."""
    if not isinstance(count, int):
        return "-"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def row(facts: Facts) -> str:
    """A line of the list."""
    about = "" if facts["bytes_exact"] else "~"
    accept = " *" if facts["licence_to_accept"] else ""
    columns = (
        f"{facts['model']:<24}",
        f"{facts['service'] or '-':<6}",
        f"{'here' if facts['installed'] else '':<5}",
        f"{about + size(facts['bytes']):>8}",
        f"{size(facts['memory_bytes']):>8}",
        f"{str(facts['licence']) + accept:<31}",
        str(facts["about"]),
    )
    return plain("  ".join(columns).rstrip())


HEADING = f"{'MODEL':<24}  {'DOES':<6}  {'':<5}  {'SIZE':>8}  {'MEMORY':>8}  {'LICENCE':<31}  ABOUT"
LEGEND = "memory: of a model that is here, when a node serves it.  *: pull asks for --accept-licence."


def page(facts: Facts) -> str:
    """All that is known, a line each, and how to serve it."""
    told = {
        "about": facts["about"],
        "does": facts["service"],
        "here": facts["path"] or f"no: `{_pull_line(facts)}` fetches it",
        "from": facts["source"],
        "size": _size(facts),
        "sha256": facts["sha256"] or "pinned by the first pull",
        "licence": _licence(facts),
        "context": f"{facts['context']:,} tokens" if facts["context"] else None,
        "parameters": f"{facts['parameters']:,}, size class {facts['size_class']}" if facts["parameters"] else None,
        "vectors": _vectors(facts),
        "use": facts["note"],
        "weights": f"{facts['architecture']}, {facts['quantisation']}" if facts["architecture"] else None,
        "voice": _voice(facts),
        "memory": _memory(facts),
        "aliases": ", ".join(map(str, names)) if isinstance(names := facts["aliases"], list) else None,
    }
    lines = [f"{facts['model']}", *(f"  {key:<11} {value}" for key, value in told.items() if value)]
    if facts["installed"] and facts["service"] == "chat" and not facts["chat_template"]:
        lines.append("  note        no chat template in the file: prompts are written as ChatML")
    return plain("\n".join([*lines, "", "To serve it:", "", str(facts["settings"]).rstrip()]))


def _pull_line(facts: Facts) -> str:
    return f"cxp2p models pull {facts['model']}{' --accept-licence' if facts['licence_to_accept'] else ''}"


def _size(facts: Facts) -> str | None:
    if not facts["bytes"]:
        return None
    return f"{facts['bytes']:,} bytes" if facts["bytes_exact"] else f"about {size(facts['bytes'])}"


def _licence(facts: Facts) -> str:
    told = f"{facts['licence']}"
    if facts["licence_url"]:
        told += f", {facts['licence_url']}"
    if facts["licence_to_accept"]:
        told += ", accepted" if facts["licence_accepted"] else ", to be accepted: --accept-licence"
    return told


def _vectors(facts: Facts) -> str | None:
    if not facts["dimensions"]:
        return None
    cut = ", may be cut to fewer" if facts["matryoshka"] else ""
    return f"{facts['dimensions']} numbers{cut}, pooling {facts['pooling'] or 'as the file says'}"


def _voice(facts: Facts) -> str | None:
    if not facts["language"]:
        return None
    speakers = f", {facts['speakers']} speakers, of whom the first speaks" if facts["speakers"] != 1 else ""
    return f"{facts['language']}, {facts['sample_rate']:,} samples a second{speakers}"


def _memory(facts: Facts) -> str:
    needed = facts["memory_bytes"]
    if not isinstance(needed, int):
        return "known once it is here"
    units = "characters" if facts["service"] == "speech" else "tokens"
    return f"{needed // MIB:,} MiB for {facts['memory_slots']} jobs of {facts['memory_context']:,} {units}"
