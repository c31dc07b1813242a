"""OpenAI's JSON: a body becomes a ChatJob, pieces become chunks. No other module knows its shapes.

Facts from OpenAI's published API description, and from reading what its SDKs send and accept.
"""

from cxp2p_gateway.openai.answer import (
    DONE,
    Chunks,
    Whole,
    completion,
    cx_object,
    finish_reason,
    logprobs_object,
    reasoning_units,
    usage,
)
from cxp2p_gateway.openai.ask import ChatAsk, chat_ask
from cxp2p_gateway.openai.embeddings import EmbedAsk, EmbedRules, TokenInput, embed_ask, embeddings_json, fitted
from cxp2p_gateway.openai.generation import generation_object
from cxp2p_gateway.openai.listing import SUPPORTED, model_endpoints, model_list, model_object
from cxp2p_gateway.openai.response_answer import Head, ResponseEvents, items_of
from cxp2p_gateway.openai.response_ask import ResponseAsk, response_ask
from cxp2p_gateway.openai.speech import (
    SpeechAsk,
    audio_event,
    done_event,
    speech_ask,
    tts_ask,
    voice_for,
    voice_list,
)

__all__ = [
    "DONE",
    "SUPPORTED",
    "ChatAsk",
    "Chunks",
    "EmbedAsk",
    "EmbedRules",
    "Head",
    "ResponseAsk",
    "ResponseEvents",
    "SpeechAsk",
    "TokenInput",
    "Whole",
    "audio_event",
    "chat_ask",
    "completion",
    "cx_object",
    "done_event",
    "embed_ask",
    "embeddings_json",
    "finish_reason",
    "fitted",
    "generation_object",
    "items_of",
    "logprobs_object",
    "model_endpoints",
    "model_list",
    "model_object",
    "reasoning_units",
    "response_ask",
    "speech_ask",
    "tts_ask",
    "usage",
    "voice_for",
    "voice_list",
]
