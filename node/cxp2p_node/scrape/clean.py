"""A part of a page as HTML again: what it says and how it is built, without looks, scripts and most attributes."""

from __future__ import annotations

from typing import Final

from cxp2p_node.scrape.addresses import Addresses
from cxp2p_node.scrape.blocks import Image
from cxp2p_node.scrape.code import code_text, language
from cxp2p_node.scrape.formulas import formula
from cxp2p_node.scrape.pictures import picture
from cxp2p_node.scrape.tags import HEADINGS, names
from cxp2p_node.scrape.tree import Node

_KEPT: Final = HEADINGS | names(
    "a abbr article aside b blockquote br caption cite code dd del details dfn div dl dt em figcaption figure hr i ins"
    " kbd li main mark ol p pre q rp rt ruby s samp section small strike strong sub summary sup table tbody td tfoot th"
    " thead time tr u ul var"
)
_VOID: Final = names("br hr")
_LEFT_OUT: Final = names("button select textarea input head title meta link embed track source param area map")
_ATTRIBUTES: Final = {
    "ol": ("start",),
    "td": ("colspan", "rowspan"),
    "th": ("colspan", "rowspan", "scope"),
    "time": ("datetime",),
    "abbr": ("title",),
}


def clean_html(root: Node, addresses: Addresses) -> str:
    """What is in `root` and not `gone`, as HTML. Addresses are absolute."""
    out: list[str] = []
    waiting: list[Node | str] = list(reversed(root.children))
    while waiting:
        node = waiting.pop()
        if isinstance(node, _Markup):
            out.append(node)
        elif isinstance(node, str):
            out.append(escaped(node))
        elif not node.gone and node.tag not in _LEFT_OUT:
            whole = _whole(node, addresses)
            if whole is not None:
                out.append(whole)
                continue
            if node.tag in _KEPT:
                out.append(f"<{node.tag}{_attributes(node, addresses)}>")
                if node.tag in _VOID:
                    continue
                waiting.append(_Markup(f"</{node.tag}>"))
            waiting.extend(reversed(list(node.elements()) if node.bare else node.children))
    return "".join(out).strip()


class _Markup(str):
    """Text that is a tag."""

    __slots__ = ()


def _whole(node: Node, addresses: Addresses) -> str | None:
    """An element that is written in one go, None if it is not of that kind."""
    if node.tag in ("pre", "listing", "xmp"):
        said = language(node)
        kind = f' class="language-{quoted(said)}"' if said else ""
        return f"<pre><code{kind}>{escaped(code_text(node))}</code></pre>"
    if node.tag == "img":
        shown = picture(node, addresses)
        if isinstance(shown, Image):
            return f'<img src="{quoted(shown.url)}" alt="{quoted(shown.alt)}">'
        return escaped(shown or "")
    if node.tag == "math" and (said_formula := formula(node)) is not None:
        return f"<code>{escaped(said_formula.tex)}</code>"
    return None


def _attributes(node: Node, addresses: Addresses) -> str:
    if not node.raw:
        return ""
    said: list[tuple[str, str]] = []
    if node.tag == "a" and (url := addresses.absolute(node.get("href"))):
        said.append(("href", url))
    for name in (*_ATTRIBUTES.get(node.tag, ()), "lang", "dir"):
        if value := node.get(name):
            said.append((name, value))
    return "".join(f' {name}="{quoted(value)}"' for name, value in said)


def escaped(text: str) -> str:
    """Text as HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def quoted(text: str) -> str:
    """Text as the value of an attribute in double quotes."""
    return escaped(text).replace('"', "&quot;")
