"""The models that this program knows by name: where they come from, and what exactly they are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from cxp2p.errors import SettingsError
from cxp2p_node.catalog.entries import CatalogEntry, Licence
from cxp2p_node.catalog.sources import PackagedBert, PackagedFile
from cxp2p_node.catalog.table import CATALOG

__all__ = ["CATALOG", "CatalogEntry", "Licence", "PackagedBert", "PackagedFile", "find", "look_up", "unknown"]


def find(name: str) -> CatalogEntry | None:
    """The catalogue's entry of a name or alias."""
    wanted = name.strip().lower()
    return next((entry for entry in CATALOG if wanted == entry.name.lower() or wanted in entry.aliases), None)


def look_up(name: str) -> CatalogEntry:
    """The entry of a name or alias. Raises SettingsError, which names what is there."""
    entry = find(name)
    if entry is None:
        raise unknown(name, ())
    return entry


def unknown(name: str, others: Iterable[str]) -> SettingsError:
    """What to say of a name that is neither in the catalogue nor among `others`."""
    known = [*(entry.name for entry in CATALOG), *others]
    near = difflib.get_close_matches(name.strip(), known, n=1)
    own = "one of your own comes by `cxp2p models pull NAME --source SOURCE` or `cxp2p models import FILE --name NAME`"
    hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(known)}; {own}"
    return SettingsError(f"model {name!r} is not in the catalogue; {hint}")
