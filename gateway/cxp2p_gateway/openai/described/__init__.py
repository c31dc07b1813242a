"""OpenAI's JSON as schemas, for the OpenAPI document. Their limits are those of the modules that read it."""

from __future__ import annotations

from cxp2p_gateway.openai.described.answers import ANSWERS
from cxp2p_gateway.openai.described.chat import CHAT
from cxp2p_gateway.openai.described.responses import RESPONSES
from cxp2p_gateway.openai.described.services import SERVICES
from cxp2p_gateway.openapi.words import Schema

SCHEMAS: dict[str, Schema] = {**CHAT, **RESPONSES, **SERVICES, **ANSWERS}
"""By name, requests and answers; they refer to each other by these names."""

__all__ = ["SCHEMAS"]
