"""Where programs keep things, by the conventions of the system."""

from __future__ import annotations

from pathlib import Path

from platformdirs import user_config_path, user_data_path


def default_data_path(program: str) -> Path:
    """Where a program keeps its state, by the conventions of the system."""
    return user_data_path("cxp2p") / program


def default_config_path(program: str) -> Path:
    """Where a program looks for its settings, by the conventions of the system."""
    return user_config_path("cxp2p") / f"{program}.toml"
