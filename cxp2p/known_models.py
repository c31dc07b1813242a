"""The names that everybody means the same models by, what they do and how large they are. Pure.

Where their files come from is the node's affair: a gateway knows by this table that a name is right though no node
offers it now, and rewards weigh a model by its size class.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cxp2p.records import Service

MILLION, BILLION = 10**6, 10**9


class SizeClass(StrEnum):
    """How large a model is, by its parameters: up to 4, 8, 22 billion, and more."""

    TIDE_POOL = "tide-pool"
    BLUE_SURGE = "blue-surge"
    OPEN_OCEAN = "open-ocean"
    MARIANA_DEPTH = "mariana-depth"


SIZE_CLASSES = (
    (4 * BILLION, SizeClass.TIDE_POOL),
    (8 * BILLION, SizeClass.BLUE_SURGE),
    (22 * BILLION, SizeClass.OPEN_OCEAN),
)


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that is known by name. `parameters` is about right: a size class is what it is for."""

    name: str
    service: Service
    parameters: int
    aliases: tuple[str, ...] = ()


def size_class(parameters: int) -> SizeClass:
    """The size class of a model of so many parameters."""
    return next((named for most, named in SIZE_CLASSES if parameters <= most), SizeClass.MARIANA_DEPTH)


KNOWN_MODELS = (
    KnownModel("smollm2:135m", Service.CHAT, 135 * MILLION, ("smollm2", "smollm2-135m-instruct")),
    KnownModel("gemma3:270m", Service.CHAT, 268 * MILLION),
    KnownModel("llama3.2:1b", Service.CHAT, 1_240 * MILLION, ("llama-3.2-1b-instruct",)),
    KnownModel("smollm3:3b", Service.CHAT, 3_080 * MILLION, ("smollm3",)),
    KnownModel("llama3.2:3b", Service.CHAT, 3_210 * MILLION, ("llama3.2", "llama-3.2-3b-instruct")),
    KnownModel("phi4-mini", Service.CHAT, 3_840 * MILLION, ("phi4-mini:3.8b", "phi-4-mini-instruct")),
    KnownModel("gemma3:4b", Service.CHAT, 3_880 * MILLION, ("gemma3", "gemma-3-4b-it")),
    KnownModel("qwen3:4b", Service.CHAT, 4_020 * MILLION),
    KnownModel("mistral:7b", Service.CHAT, 7_250 * MILLION, ("mistral", "mistral-7b-instruct")),
    KnownModel("qwen2.5-coder:7b", Service.CHAT, 7_620 * MILLION, ("qwen2.5-coder",)),
    KnownModel("deepseek-r1:7b", Service.CHAT, 7_620 * MILLION, ("deepseek-r1", "deepseek-r1-distill-qwen-7b")),
    KnownModel("llama3.1:8b", Service.CHAT, 8_030 * MILLION, ("llama3.1", "llama-3.1-8b-instruct")),
    KnownModel("qwen3:8b", Service.CHAT, 8_190 * MILLION, ("qwen3",)),
    KnownModel("codellama:13b", Service.CHAT, 13_016 * MILLION, ("codellama",)),
    KnownModel("gpt-oss:20b", Service.CHAT, 20_900 * MILLION, ("gpt-oss", "gpt-oss-20b")),
    KnownModel("llama3.1:70b", Service.CHAT, 70_550 * MILLION, ("llama-3.1-70b-instruct",)),
    KnownModel("all-minilm-l6-v2", Service.EMBED, 23 * MILLION, ("all-minilm", "minilm")),
    KnownModel("bge-small-en-v1.5", Service.EMBED, 33 * MILLION, ("bge-small",)),
    KnownModel("nomic-embed-text", Service.EMBED, 137 * MILLION, ("nomic-embed-text-v1.5",)),
    KnownModel("embeddinggemma", Service.EMBED, 303 * MILLION, ("embeddinggemma:300m",)),
    KnownModel("mxbai-embed-large", Service.EMBED, 334 * MILLION, ("mxbai-embed-large-v1",)),
    KnownModel("bge-m3", Service.EMBED, 567 * MILLION),
    KnownModel("qwen3-embedding:0.6b", Service.EMBED, 596 * MILLION, ("qwen3-embedding",)),
    KnownModel("en_US-joe-medium", Service.SPEECH, 16 * MILLION),
    KnownModel("en_US-amy-medium", Service.SPEECH, 16 * MILLION),
    KnownModel("en_US-hfc_female-medium", Service.SPEECH, 16 * MILLION),
    KnownModel("en_US-hfc_male-medium", Service.SPEECH, 16 * MILLION),
    KnownModel("en_US-kristin-medium", Service.SPEECH, 16 * MILLION),
    KnownModel("en_US-lessac-medium", Service.SPEECH, 16 * MILLION),
    KnownModel("en_US-lessac-high", Service.SPEECH, 28 * MILLION),
    KnownModel("en_US-ljspeech-high", Service.SPEECH, 28 * MILLION),
    KnownModel("en_US-ryan-high", Service.SPEECH, 28 * MILLION),
    KnownModel("en_GB-alan-medium", Service.SPEECH, 16 * MILLION),
    KnownModel("en_GB-alba-medium", Service.SPEECH, 16 * MILLION),
    KnownModel("en_GB-cori-high", Service.SPEECH, 28 * MILLION),
    KnownModel("de_DE-thorsten-medium", Service.SPEECH, 16 * MILLION),
    KnownModel("es_ES-davefx-medium", Service.SPEECH, 16 * MILLION),
    KnownModel("fr_FR-siwis-medium", Service.SPEECH, 16 * MILLION),
    KnownModel("it_IT-paola-medium", Service.SPEECH, 16 * MILLION),
)

# SHA-256 of weights of models above the smallest size: only these weigh more in rewards, as names prove nothing.
KNOWN_WEIGHTS: Final = (
    ("7485fe6f11af29433bc51cab58009521f205840f5b4ae3a32fa7f92e8534fdf5", "qwen3:4b"),
    ("1270d22c0fbb3d092fb725d4d96c457b7b687a5f5a715abe1e818da303e562b6", "mistral:7b"),
    ("509287f78cb4d4cf6b3843734733b914b2c158e43e22a7f4bf5e963800894d3c", "qwen2.5-coder:7b"),
    ("731ece8d06dc7eda6f6572997feb9ee1258db0784827e642909d9b565641937b", "deepseek-r1:7b"),
    ("7b064f5842bf9532c91456deda288a1b672397a54fa729aa665952863033557c", "llama3.1:8b"),
    ("d98cdcbd03e17ce47681435b5150e34c1417f50b5c0019dd560e4882c5745785", "qwen3:8b"),
    ("27cd6c432c7672cb812a92f611cf3ba7bbc35928262bb1e1253ff4ee6ae35901", "gpt-oss:20b"),
    ("f775c87029be95fb41df9e2882e6e938b73121c30ffc235ac6b6b880add49aa5", "llama3.1:70b"),
)
_NAMES: Final = {alias.lower(): known for known in KNOWN_MODELS for alias in (known.name, *known.aliases)}


def name_of(model: str, service: Service | None = None) -> str:
    """The name that is meant by an alias, large or small letters alike; what is none stays as it is."""
    known = _NAMES.get(model.strip().lower())
    return known.name if known is not None and service in (None, known.service) else model
