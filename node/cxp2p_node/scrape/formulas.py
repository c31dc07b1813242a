"""Mathematics in a page, as TeX where the page says it."""

from __future__ import annotations

from typing import Final

from cxp2p_node.scrape.blocks import Formula
from cxp2p_node.scrape.tree import Node

TEX_CHARACTERS_MAX: Final = 4_000


def formula(math: Node) -> Formula | None:
    """What a <math> says, None if it says nothing that is TeX: then its text is read as any other."""
    tex = math.get("alttext")
    if not tex:
        for node in math.walk():
            if node.tag == "annotation" and "tex" in node.get("encoding").lower():
                tex = node.text()
                break
    return _formula(tex, math.get("display") == "block")


def formula_of_image(image: Node) -> Formula | None:
    """What an image of a formula says."""
    kind = image.get("class")
    if "mwe-math" in kind or "latex" in kind.split() or "tex" in kind.split():
        return _formula(image.get("alt"), "display" in kind)
    return None


def _formula(tex: str, alone: bool) -> Formula | None:
    tex = " ".join(tex.split())
    for opening in ("{\\displaystyle ", "{\\textstyle "):
        if tex.startswith(opening) and tex.endswith("}"):
            tex = tex[len(opening) : -1].strip()
    return Formula(tex, alone) if tex and len(tex) <= TEX_CHARACTERS_MAX else None
