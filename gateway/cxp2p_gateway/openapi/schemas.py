"""The schemas of what is not OpenAI's: pages, receipts and errors."""

from __future__ import annotations

from typing import Final

from cxp2p.records import PageFault, PageForm, Render
from cxp2p.scrape import MODEL, URLS_MAX
from cxp2p_gateway import pages
from cxp2p_gateway.openai.described import SCHEMAS as OPENAI
from cxp2p_gateway.openapi.words import (
    Schema,
    any_of,
    flag,
    given,
    just,
    many,
    maybe,
    one_of,
    record,
    ref,
    text,
    whole,
)

NAMES: Final = "title description author publish_date language contentType finalUrl fetchedAt final_url fetched_at"
METADATA: Final = given(
    {},
    {
        **{name: maybe(text()) for name in NAMES.split()},
        "statusCode": maybe(whole()),
        "status": maybe(whole()),
        "cached": flag(),
        "rendered": flag(),
    },
)
SIGNED: Final = {
    name: given({"envelope": text(contentEncoding="base64"), "fields": {"type": "object"}})
    for name in ("order", "receipt", "countersign")
}
STANDING: Final = {
    "counts": given(
        {"state": one_of(["held", "counted", "dropped", "uncounted"]), "epoch": maybe(whole(0))},
        {"closes_at": maybe(text(format="date-time"))},
    ),
    "inclusion": maybe(text(contentEncoding="base64")),
}
PAGE: Final = given({"url": text(), "content": text(), "success": flag(), "metadata": METADATA})
FAILED: Final = given({"error": text(), "code": text(examples=[each.value for each in PageFault])})

SCHEMAS: Final[dict[str, Schema]] = {
    **OPENAI,
    "ScrapeRequest": record(
        {"urls": many(text(examples=["https://example.com"]), 1, URLS_MAX)},
        {
            "format": one_of(list(PageForm), default=PageForm.MARKDOWN.value),
            "only_main_content": flag(default=True),
            "timeout": whole(1, pages.TIMEOUT_S_MAX, default=pages.TIMEOUT_S),
            "max_age": whole(0, pages.AGE_S_MAX, default=0),
            "include_links": flag(default=False),
            "render": one_of(list(Render), default=Render.NEVER.value),
            "wait_for": whole(0, pages.WAIT_MS_MAX, default=0),
            "model": text(default=MODEL),
        },
    ),
    "ScrapeResults": given(
        {"results": many({**PAGE, "if": {"properties": {"success": {"const": False}}}, "then": FAILED}, 1)},
        {"cx": ref("Cx")},
    ),
    "Signed": given(
        {"id": text(), "object": just("receipt"), **SIGNED, **STANDING, "data": many(given(SIGNED | STANDING), 1)}
    ),
    "Error": any_of(
        given({"error": text()}),
        given(
            {"error": given({"message": text(), "type": text(), "param": maybe(text()), "code": text()})},
        ),
        description="A text under `/api/v1`; OpenAI's object under `/v1`, for its SDKs, and where it is asked for.",
    ),
}
"""By name, of requests and answers."""
