"""cxp2p: a peer-to-peer network that serves AI models, as a library."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cxp2p.client import Answer, Embeddings, Net, Scraped, connect
    from cxp2p.errors import CxError, JobFailed, JobRefused, NoNode, PeerUnreachable
    from cxp2p.identity import Identity, load_identity, new_identity
    from cxp2p.records import Message, PageForm, Role, Sampling, ScrapedPage

try:
    __version__ = version("cxp2p")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+source"

__all__ = [
    "Answer",
    "CxError",
    "Embeddings",
    "Identity",
    "JobFailed",
    "JobRefused",
    "Message",
    "Net",
    "NoNode",
    "PageForm",
    "PeerUnreachable",
    "Role",
    "Sampling",
    "Scraped",
    "ScrapedPage",
    "connect",
    "load_identity",
    "new_identity",
]

_HOMES = {
    "cxp2p.client": ("Answer", "Embeddings", "Net", "Scraped", "connect"),
    "cxp2p.errors": ("CxError", "JobFailed", "JobRefused", "NoNode", "PeerUnreachable"),
    "cxp2p.identity": ("Identity", "load_identity", "new_identity"),
    "cxp2p.records": ("Message", "PageForm", "Role", "Sampling", "ScrapedPage"),
}


def __getattr__(name: str) -> object:
    """Imports what is asked for, when it is: libp2p takes half a second that a worker process should not pay."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'cxp2p' has no attribute {name!r}")
