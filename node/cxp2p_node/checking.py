"""`cxp2p node check`: whether a node would start with these settings, and with what. Models are not loaded."""

from __future__ import annotations

from cxp2p.checks import Finding, check_addresses, check_folder, check_key, check_network, fault, note, ok
from cxp2p.errors import CxError
from cxp2p.paths import default_data_path
from cxp2p_node.app import open_store
from cxp2p_node.config import ModelSettings, NodeSettings
from cxp2p_node.models import Store


async def check(settings: NodeSettings, *, network: bool) -> list[Finding]:
    """Everything that can be told without loading a model. `network`: asks the bootstrap peers, too."""
    data_path = settings.data_path or default_data_path("node")
    findings = [
        check_folder(data_path),
        check_key(settings.peer, settings.peer.key_path or data_path / "identity.key"),
        *_models(settings),
    ]
    peer = list(check_addresses(settings.peer, ports=True))
    if network and len(peer) > 1:
        peer += await check_network(settings.peer)
    return [*findings, *peer]


def _models(settings: NodeSettings) -> list[Finding]:
    names = [model.name for model in settings.models]
    if len(set(names)) != len(names):
        return [fault("models", f"each name may stand once, given are {', '.join(names)}")]
    store = open_store(settings)
    return [_model(model, settings, store) for model in settings.models]


def _model(model: ModelSettings, settings: NodeSettings, store: Store) -> Finding:
    if model.engine != "llama":
        return ok("model", f"{model.name}, by the engine {model.engine}")
    if model.path is not None:
        there = model.path.is_file()
        return ok("model", f"{model.name}, {model.path}") if there else fault("model", f"there is no file {model.path}")
    try:
        entry = store.entry(model.name, model.source)
    except CxError as error:
        return fault("model", error)
    if store.has(entry):
        return ok("model", f"{entry.name}, {store.file(entry)}")
    if settings.pull:
        return note("model", f"{entry.name} is not on this machine: the start fetches it")
    return fault("model", f"{entry.name} is not on this machine: `cxp2p models pull {entry.name}` fetches it")
