"""From an operator's settings to the engine that scrapes, with all that it needs."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cxp2p.records import Prices
from cxp2p_node.config import ModelSettings, ScrapeSettings
from cxp2p_node.engines.scrape import PRICE_PAGE, SLOTS, Scrape, ScrapeOffer, Tools
from cxp2p_node.scrape.fetch import Fetcher, fetcher_of
from cxp2p_node.scrape.fetched import MIB, FetchSettings
from cxp2p_node.scrape.readers import open_readers
from cxp2p_node.scrape.rendering import browser_path, renderer_of


def fetch_settings(pages: ScrapeSettings) -> FetchSettings:
    """What a fetcher is told."""
    return FetchSettings(
        user_agent=pages.user_agent,
        delay_s=pages.delay_s,
        at_once=pages.at_once,
        ports=pages.ports,
        allow=pages.allow,
        ca_path=pages.ca_path,
        cache_bytes=pages.cache_mib * MIB,
    )


def scrape_offer(model: ModelSettings) -> ScrapeOffer:
    """What is offered. A page has a price of its own where none is set: those of tokens are a thousand times less."""
    told = model.model_fields_set
    prices = Prices(
        input=model.price_in if "price_in" in told else 0, output=model.price_out if "price_out" in told else PRICE_PAGE
    )
    return ScrapeOffer(model=model.name, prices=prices, slots=model.slots or SLOTS, queue_max=model.queue_max)


@asynccontextmanager
async def scrape_of(
    model: ModelSettings, pages: ScrapeSettings, fetcher: Fetcher | None = None
) -> AsyncIterator[Scrape]:
    """The engine, for as long as the block runs. Raises SettingsError."""
    fetcher = fetcher or fetcher_of(fetch_settings(pages))
    uid = os.geteuid()
    path = browser_path(pages.browser, uid)
    renders = renderer_of(path, fetcher, pages.user_agent, uid) if path else None
    async with open_readers(pages.readers) as readers:
        tools = Tools(fetches=fetcher, reads=readers, readers=readers.count, renders=renders)
        yield Scrape(scrape_offer(model), tools)
