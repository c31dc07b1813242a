"""cxp2p: a peer-to-peer network that serves AI models, as a library."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from cxp2p.client import Answer, Net, connect
from cxp2p.errors import CxError, JobFailed, JobRefused, NoNode, PeerUnreachable
from cxp2p.identity import Identity, load_identity, new_identity
from cxp2p.records import Message, Role, Sampling

try:
    __version__ = version("cxp2p")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+source"

__all__ = [
    "Answer",
    "CxError",
    "Identity",
    "JobFailed",
    "JobRefused",
    "Message",
    "Net",
    "NoNode",
    "PeerUnreachable",
    "Role",
    "Sampling",
    "connect",
    "load_identity",
    "new_identity",
]
