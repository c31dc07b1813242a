"""Model files: where they come from, what they say of themselves, and the folder that keeps them."""

from __future__ import annotations

from cxp2p_node.models.bring import ModelError, Progress
from cxp2p_node.models.store import Store

__all__ = ["ModelError", "Progress", "Store"]
