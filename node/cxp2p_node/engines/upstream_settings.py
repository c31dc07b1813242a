"""From a model's settings to the server behind it. The key is read here, and from then on nothing shows it."""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager

from cxp2p.errors import SettingsError
from cxp2p.records import Prices, Service
from cxp2p_node.config import ModelSettings
from cxp2p_node.engines.upstream import SLOTS, Upstream, UpstreamSettings, open_upstream
from cxp2p_node.engines.upstream_http import Client, server_of

KEY_CHARS_MAX = 4096


def upstream_of(model: ModelSettings) -> AbstractAsyncContextManager[Upstream]:
    """The engine of a model with `engine = "upstream"`. Raises SettingsError for a URL or a key that cannot be."""
    assert model.url is not None  # the settings have seen to it
    try:
        client = Client(server_of(model.url, _key(model)))
    except SettingsError as error:
        raise SettingsError(f"models: {model.name}: {error}") from None
    settings = UpstreamSettings(
        model=model.name,
        upstream_model=model.upstream_model or model.name,
        sole=model.upstream_model is None,
        service=Service(model.service),
        prices=Prices(input=model.price_in, output=model.price_out),
        queue_max=model.queue_max,
        slots=model.slots or SLOTS,
        context_units=model.context_units,
        output_units_max=model.output_units_max,
        digest=model.digest,
    )
    return open_upstream(settings, client)


def _key(model: ModelSettings) -> str:
    """The server's key; "" for a server that wants none."""
    key, where = "", ""
    if model.key_env is not None:
        where = f"key_env: the environment variable {model.key_env}"
        if model.key_env not in os.environ:
            raise SettingsError(f"key_env: there is no environment variable {model.key_env}")
        key = os.environ[model.key_env].strip()
    elif model.key_path is not None:
        where = f"key_path: {model.key_path}"
        try:
            key = model.key_path.expanduser().read_text().strip()
        except (OSError, ValueError) as error:
            raise SettingsError(f"{where} cannot be read: {error}") from None
    else:
        return ""
    if not key or len(key) > KEY_CHARS_MAX:
        raise SettingsError(f"{where} holds no key: expected 1 to {KEY_CHARS_MAX} characters")
    return key
