"""Which of a page's images show something, and where the real one lies."""

from __future__ import annotations

import re
from typing import Final

from cxp2p_node.scrape.addresses import Addresses
from cxp2p_node.scrape.blocks import Image
from cxp2p_node.scrape.tree import Node

SIDE_PIXELS_MIN: Final = 33  # smaller ones are icons, bullets and pixels that count visitors
ALT_CHARACTERS_MAX: Final = 500

_SOURCES: Final = ("data-src", "data-original", "data-lazy-src", "data-hi-res-src", "data-full-src", "data-url")
_SETS: Final = ("data-srcset", "data-lazy-srcset", "srcset")
_CANDIDATE: Final = re.compile(r"([^\s,]\S*[^\s,])(?:\s+([\d.]+)[wx])?\s*(?:,|$)")
_PLACEHOLDER: Final = re.compile(
    r"(?:blank|spacer|pixel|placeholder|transparent|loading|1x1|lazy|grey|clear)[\w.-]*\.(?:gif|png|svg|jpe?g)",
    re.IGNORECASE,
)
_DECORATION: Final = re.compile(r"\b(?:icon|avatar|gravatar|spinner|tracking|badge)\b|\bemoji", re.IGNORECASE)


def picture(node: Node, addresses: Addresses) -> Image | str | None:
    """An <img> as an image, as text where it stands for a character, or None where it only decorates."""
    alt = " ".join(node.get("alt").split())[:ALT_CHARACTERS_MAX]
    kind = node.get("class")
    if _DECORATION.search(kind):
        return alt if "emoji" in kind and len(alt) <= 8 else None
    if _small(node) or node.get("role") == "presentation" or node.get("aria-hidden") == "true":
        return None
    url = _source(node, addresses)
    return Image(alt, url) if url else None


def _small(node: Node) -> bool:
    for name in ("width", "height"):
        value = node.get(name).removesuffix("px").strip()
        if value.isdecimal() and len(value) < 5 and int(value) < SIDE_PIXELS_MIN:
            return True
    return False


def _source(node: Node, addresses: Addresses) -> str:
    values = [node.get(name) for name in _SOURCES]
    values.append(node.get("src"))
    values.extend(_largest(node.get(name)) for name in _SETS)
    if node.parent is not None and node.parent.tag == "picture":
        values.extend(_largest(source.get("srcset")) for source in node.parent.elements() if source.tag == "source")
    for value in values:
        if value and not _PLACEHOLDER.search(value) and (url := addresses.absolute(value)):
            return url
    return ""


def _largest(source_set: str) -> str:
    found = _CANDIDATE.findall(source_set[:8_192])
    return max(found, key=lambda each: _number(each[1]))[0] if found else ""


def _number(text: str) -> float:
    try:
        return float(text or 1)
    except ValueError:  # of 1.2.3
        return 0.0
