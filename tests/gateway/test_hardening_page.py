"""docs/hardening.md says what is true: its limits are the code's, its settings the defaults."""

from __future__ import annotations

import tomllib
from importlib import import_module

import pytest

from cxp2p_gateway.config import GatewaySettings
from pages import page

HARDENING = page("docs/hardening.md")


@pytest.mark.parametrize(("what", "limit", "then", "where"), HARDENING.table("what", "limit", "then", "where"))
def test_a_limit_is_the_codes(what: str, limit: str, then: str, where: str) -> None:
    """Each has its number, what happens over it, and where it stands."""
    module, _, name = where.partition(".")
    assert getattr(import_module(f"cxp2p_gateway.{module}"), name) == int(limit.replace(",", ""))
    assert what
    assert then


def test_the_settings_shown_are_the_defaults() -> None:
    (shown,) = [fence for fence in HARDENING.fences if fence.language == "toml"]
    assert GatewaySettings.model_validate(tomllib.loads(shown.text)) == GatewaySettings()
