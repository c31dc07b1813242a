"""The weights that rewards know the size of are the catalogue's."""

from __future__ import annotations

from cxp2p.known_models import KNOWN_WEIGHTS, SizeClass, size_class
from cxp2p.rewards import DEFAULT_RULES
from cxp2p_node.catalog import CATALOG


def test_the_default_rules_know_the_catalogues_weights() -> None:
    """Each file of a known digest that is not of the smallest size, under its size; and no other."""
    expected = {
        entry.sha256: size_class(entry.parameters)
        for entry in CATALOG
        if entry.sha256 is not None and size_class(entry.parameters) is not SizeClass.TIDE_POOL
    }
    assert {each.model_digest: each.size for each in DEFAULT_RULES.models} == expected
    names = {entry.sha256: entry.name for entry in CATALOG}
    assert {bytes.fromhex(digest): name for digest, name in KNOWN_WEIGHTS}.items() <= names.items()
