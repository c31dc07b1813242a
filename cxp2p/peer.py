"""A peer from its settings: the key, the addresses, the way in. Shared by all programs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from cxp2p.errors import PeerUnreachable
from cxp2p.identity import Identity, load_identity, new_identity
from cxp2p.net import Network
from cxp2p.net.discover import offer_sequence
from cxp2p.receipts import HOURS, Calendar


class PeerSettings(BaseModel):
    """Who this peer is and how it meets others."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key_path: Path | None = Field(None, description="The peer's key file; made at the first start, mode 0600.")
    passphrase: SecretStr | None = Field(None, description="Encrypts the key file. Better given by the environment.")
    listen: tuple[str, ...] = Field(
        ("/ip4/0.0.0.0/tcp/4001",), description="Multiaddresses to listen on; port 0 takes a free one."
    )
    announce: tuple[str, ...] = Field(
        (), description="Addresses that others should dial, when they differ from `listen` (a forwarded port, say)."
    )
    bootstrap: tuple[str, ...] = Field(
        (), description="Peers to join the network through; each ends in /p2p/<peer id>."
    )
    dht_server: bool = Field(True, description="Keep records for others. Set to false behind a NAT.")
    psk: str | None = Field(None, description="64 hex digits shared by all peers of a private network.")
    epoch_s: int = Field(
        HOURS.epoch_ms // 1000,
        ge=1,
        le=86_400,
        description="Seconds that an epoch lasts; all peers of a network must have the same. Shorter for trying out.",
    )

    @property
    def calendar(self) -> Calendar:
        """The network's epochs."""
        return Calendar(self.epoch_s * 1000)


@asynccontextmanager
async def open_peer(settings: PeerSettings, data_path: Path) -> AsyncIterator[tuple[Identity, Network]]:
    """Loads the key and joins the network, for as long as the block runs. Raises IdentityError, PeerUnreachable."""
    from cxp2p.net.libp2p import open_network  # noqa: PLC0415  # libp2p takes 0.5 s to import; `--help` should not pay

    passphrase = settings.passphrase.get_secret_value() if settings.passphrase else None
    identity = load_identity(settings.key_path or data_path / "identity.key", passphrase)
    async with open_network(
        identity,
        listen=settings.listen,
        announce=settings.announce,
        bootstrap=settings.bootstrap,
        dht_server=settings.dht_server,
        psk=settings.psk,
        offer_validator=offer_sequence,
    ) as network:
        yield identity, network


def check_peer(settings: PeerSettings, *, ports: bool) -> None:
    """Raises SettingsError for addresses or a `psk` that `open_peer` would refuse. `ports`: tries to listen, too."""
    from cxp2p.net.libp2p import check_settings  # noqa: PLC0415

    check_settings(settings.listen, settings.announce, settings.bootstrap, settings.psk, ports=ports)


async def reach(settings: PeerSettings) -> dict[str, str]:
    """Dials each bootstrap peer, as a peer that is here for this only: by address what is wrong, "" if it answers."""
    from cxp2p.net.libp2p import open_network  # noqa: PLC0415

    wrong = dict.fromkeys(settings.bootstrap, "")
    async with open_network(
        new_identity(),
        listen=("/ip4/127.0.0.1/tcp/0",),
        dht_server=False,
        psk=settings.psk,
        offer_validator=offer_sequence,
    ) as network:

        async def dial(address: str) -> None:
            try:
                await network.connect(address)
            except PeerUnreachable as error:
                wrong[address] = str(error)

        async with trio.open_nursery() as nursery:
            for address in wrong:
                nursery.start_soon(dial, address)
    return wrong
