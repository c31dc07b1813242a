"""Settings: one file, one rule for the environment, and errors that say where."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cxp2p.errors import SettingsError
from cxp2p.settings import load_settings, render_commented
from cxp2p_node.config import NodeSettings


def load(path: Path) -> NodeSettings:
    return load_settings(NodeSettings, "node", path, required=False)


def test_defaults_without_a_file(tmp_path: Path) -> None:
    assert load(tmp_path / "none.toml").model_dump() == NodeSettings().model_dump()


def test_a_file_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"there is no file .*none.toml; `cxp2p node init` writes one"):
        load_settings(NodeSettings, "node", tmp_path / "none.toml", required=True)


def test_the_file_is_read_and_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "node.toml"
    path.write_text(
        '[peer]\nlisten = ["/ip4/127.0.0.1/tcp/1"]\ndht_server = false\n[[models]]\nname = "a"\nslots = 2\n'
    )
    monkeypatch.setenv("CXP2P_NODE_PEER__LISTEN", '["/ip4/127.0.0.1/tcp/2"]')
    monkeypatch.setenv("CXP2P_NODE_WORK__EXPOSURE_MAX", "7")
    settings = load(path)
    assert settings.peer.listen == ("/ip4/127.0.0.1/tcp/2",)
    assert settings.peer.dht_server is False  # the file's other fields stay
    assert settings.work.exposure_max == 7
    assert [(model.name, model.slots) for model in settings.models] == [("a", 2)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[peer\n", "node.toml is not valid TOML: .*line 1"),
        ("[peer]\nlitsen = []\n", r"peer\.litsen: Extra inputs are not permitted.*node\.toml"),
        ('[[models]]\nname = "a"\nslots = 0\n', r"models\.0\.slots: .*greater than or equal to 1, not '0'"),
        ("models = []\n", r"models: .*at least 1 item"),
    ],
)
def test_a_wrong_file_is_told_by_field(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "node.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=said):
        load(path)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("CXP2P_NODE_PERR__LISTEN", "[]", "CXP2P_NODE_PERR__LISTEN: there is no setting 'perr'"),
        ("CXP2P_NODE_PEER__LITSEN", "[]", r"peer\.litsen: Extra inputs"),
        ("CXP2P_NODE_WORK__DRAIN_S", "soon", r"work\.drain_s: .*valid number.*'soon' \(in CXP2P_NODE_WORK__DRAIN_S\)"),
        ("CXP2P_NODE_PEER__LISTEN", "not json", r"(peer\.listen|environment)"),
    ],
)
def test_a_wrong_variable_is_told_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=said):
        load(tmp_path / "none.toml")


def test_a_written_file_means_the_defaults_commented_or_not(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    text = render_commented(NodeSettings, "node")
    path.write_text(text)
    assert load(path).model_dump() == NodeSettings().model_dump()
    path.write_text(re.sub(r"^# ([\w.]+ = )", r"\1", text, flags=re.MULTILINE))
    assert load(path).model_dump() == NodeSettings().model_dump()
    for name in ("listen", "passphrase", "exposure_max", "queue_max", "models_path"):
        assert re.search(rf"^# {name} =", text, re.MULTILINE), name
