"""`cxp2p gateway evidence`: what nodes signed that they should not have, and what is disputed."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click
import trio

from cxp2p.client import wall_ms
from cxp2p.errors import CxError, SettingsError
from cxp2p.evidence import Wrong
from cxp2p.program import fail, plain
from cxp2p_gateway.config import GatewaySettings
from cxp2p_gateway.store import postgres, sqlite
from cxp2p_gateway.store.claims import EVIDENCE_SHOWN_MAX
from cxp2p_gateway.store.rows import KeptEvidence

SUFFIX = ".evidence"


def evidence_command(
    settings_of: Callable[[Path | None], GatewaySettings], store_path: Callable[[GatewaySettings], Path]
) -> click.Command:
    """The command."""

    @click.command("evidence")
    @click.option("--config", type=click.Path(path_type=Path), default=None, help="The gateway's settings file.")
    @click.option("--export", "folder", type=click.Path(path_type=Path), help="Write each as a file into this folder.")
    @click.option("--json", "as_json", is_flag=True, help="Say it as lines of JSON.")
    def evidence(config: Path | None, folder: Path | None, as_json: bool) -> None:
        """List what nodes signed that they should not have, newest first; also while the gateway runs.

        Anybody can check an exported file with `cxp2p evidence verify`. A dispute convicts nobody.

        \b
        Example:
          cxp2p gateway evidence --export evidence/
        """
        try:
            settings = settings_of(config)
            kept = _kept(settings, store_path(settings))
            if folder is not None:
                _export(kept, folder)
        except CxError as error:
            fail(error)
        for each in kept:
            click.echo(_line(each, as_json=as_json))
        if not as_json and not kept:
            click.echo("there is none")

    return evidence


def _kept(settings: GatewaySettings, path: Path) -> tuple[KeptEvidence, ...]:
    """Raises StoreError, SettingsError."""
    url = settings.database.url
    if url is None:
        if not path.exists():
            raise SettingsError(f"there is no {path}: this gateway has never run")
        return sqlite.look_into(path, lambda tables: tables.evidence(EVIDENCE_SHOWN_MAX, 0))
    address = url.get_secret_value()

    async def main() -> tuple[KeptEvidence, ...]:
        async with postgres.open_store(address, wall_ms) as store:
            return await store.read(lambda tables: tables.evidence(EVIDENCE_SHOWN_MAX, 0))

    return trio.run(main)


def _export(kept: tuple[KeptEvidence, ...], folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for each in kept:
            (folder / f"{each.id}{SUFFIX}").write_bytes(each.data)
    except OSError as error:
        raise SettingsError(f"{folder} cannot be written to: {error.strerror}") from None


def _line(each: KeptEvidence, *, as_json: bool) -> str:
    at = datetime.fromtimestamp(each.at_ms // 1000, UTC).isoformat().replace("+00:00", "Z")
    if as_json:
        told = {"id": each.id, "at": at, "peer": each.peer, "wrong": each.wrong, "says": each.says}
        return json.dumps({**told, "convicts": each.wrong != Wrong.DISPUTE.value})
    return plain(f"{each.id[:16]}  {at}  {each.wrong:<13}  {each.peer} {each.says}")
