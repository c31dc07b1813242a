"""Which part of the library may import which, and what is pure: the house rules are in `tidy`.

A new module of the library must be placed in `MAY_IMPORT`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

VOCABULARY = frozenset({"errors", "kinds", "jobs", "records", "epoch_frames", "protocols"})
RULES = frozenset(
    {
        "directory",
        "known_models",
        "routing",
        "standing",
        "pricing",
        "receipts",
        "claims",
        "lanes",
        "vouchers",
        "exposure",
        "ledger",
        "merkle",
        "rewards",
        "epochs",
        "epoch_files",
        "evidence",
        "kept_files",
        "units",
        "egress",
        "embed",
        "sound",
        "speech",
    }
)
BELOW_NET = VOCABULARY | RULES | {"wire", "identity", "session", "scrape"}
LIBRARY = BELOW_NET | {
    "net",
    "checks",
    "client",
    "fetching",
    "paths",
    "peer",
    "program",
    "settings",
    "shown",
    "testing",
    "writing",
}

# Which part of the library may import which: `errors, records <- protocols <- wire <- session <- net <- programs`.
MAY_IMPORT: Final[Mapping[str, frozenset[str]]] = {
    "errors": frozenset(),
    "kinds": frozenset(),
    "jobs": frozenset({"kinds"}),
    "epoch_frames": frozenset({"kinds"}),
    "records": frozenset({"kinds", "jobs"}),
    "protocols": frozenset(),
    "merkle": VOCABULARY,
    "wire": VOCABULARY,
    "identity": VOCABULARY,
    "session": VOCABULARY | {"wire"},
    "scrape": VOCABULARY | RULES | {"wire"},
    **dict.fromkeys(RULES - {"merkle"}, VOCABULARY | RULES),
    # What was signed is checked from bytes alone.
    **dict.fromkeys(
        ("epochs", "epoch_files", "evidence", "kept_files", "rewards"), VOCABULARY | RULES | {"wire", "identity"}
    ),
    "net": BELOW_NET | {"net"},
    "paths": frozenset(),
    **dict.fromkeys(
        ("checks", "client", "fetching", "peer", "program", "settings", "shown", "testing", "writing"), LIBRARY
    ),
    **dict.fromkeys(
        ("cli", "commands", "records_commands", "rewards_commands", "sources", "__main__", ""),
        LIBRARY | {"cli", "commands", "sources", ""},
    ),
}

# Pure modules: what they decide depends on their arguments alone.
PURE: Final = frozenset(
    {f"cxp2p.{name}" for name in VOCABULARY | RULES | {"wire", "session", "scrape"}}
    | {
        "cxp2p_node.admission",
        "cxp2p_node.intake",
        "cxp2p_node.engines.residency",
        "cxp2p_node.engines.slots",
        "cxp2p_node.engines.text",
    }
    | {"cxp2p_node.engines.pace", "cxp2p_node.engines.serving", "cxp2p_node.engines.packs"}
    | {"cxp2p_node.engines.wordpiece"}
    | {
        f"cxp2p_node.engines.upstream_{name}"
        for name in ("answer", "ask", "events", "faults", "health", "slots", "vectors")
    }
    | {f"cxp2p_node.scrape.{name}" for name in ("copies", "inflate", "manners", "replies", "robots")}
    | {f"cxp2p_gateway.{name}" for name in ("faults", "fields", "metrics.labels", "openai", "sse")}
)
