"""What a page says about itself in JSON-LD: graphs, lists, and JSON that is not quite."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from html import unescape
from typing import Final, TypeAlias

from cxp2p_node.scrape.tags import names

THINGS_MAX: Final = 500  # objects of one page that are looked at

Thing: TypeAlias = Mapping[str, object]

_WRAPPED: Final = re.compile(
    r"^\s*(?:<!--|//\s*<!\[CDATA\[|/\*\s*<!\[CDATA\[\s*\*/)|(?:-->|//\s*\]\]>|/\*\s*\]\]>\s*\*/)\s*;?\s*$"
)
_LAST_COMMA: Final = re.compile(r",(\s*[}\]])")
_TAG: Final = re.compile(r"<[^<>]*>")
_ARTICLES: Final = names(
    "article newsarticle blogposting techarticle scholarlyarticle report opinionnewsarticle analysisnewsarticle"
    " reportagenewsarticle reviewnewsarticle socialmediaposting discussionforumposting liveblogposting"
)
_OTHERS: Final = names("recipe product howto qapage question faqpage course event jobposting videoobject book dataset")
_PAGES: Final = names("webpage itempage aboutpage collectionpage profilepage")


def things(scripts: Sequence[str]) -> list[Thing]:
    """All objects in the scripts, the outer ones first."""
    found: list[Thing] = []
    for script in scripts:
        waiting: deque[object] = deque([_loaded(script)])
        while waiting and len(found) < THINGS_MAX:
            value = waiting.popleft()
            if isinstance(value, dict):
                found.append(value)
                waiting.extend(inner for inner in value.values() if isinstance(inner, (dict, list)))
            elif isinstance(value, list):
                waiting.extend(value[:THINGS_MAX])
    return found


def about(found: Sequence[Thing]) -> list[Thing]:
    """Those of them that the page may be about, the likeliest first."""
    return [thing for kinds in (_ARTICLES, _OTHERS, _PAGES) for thing in found if kinds_of(thing) & kinds]


def any_article(found: Sequence[Thing]) -> bool:
    """Whether one of them is an article."""
    return any(kinds_of(thing) & _ARTICLES for thing in found)


def kinds_of(thing: Thing) -> set[str]:
    """Its types, in lower case, without the vocabulary."""
    kinds = thing.get("@type")
    listed = kinds if isinstance(kinds, list) else [kinds]
    return {kind.rpartition("/")[2].lower() for kind in listed if isinstance(kind, str)}


def words(value: object) -> str:
    """A string of JSON-LD as text: entities and tags in it are resolved."""
    if isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, dict):
        value = value.get("@value", "")
    if not isinstance(value, str):
        return ""
    return " ".join(_TAG.sub(" ", unescape(value)).split())


def people(value: object, found: Sequence[Thing]) -> list[str]:
    """The names of an author or several: strings, objects, or references to objects elsewhere in the page."""
    return [name for each in (value if isinstance(value, list) else [value])[:20] for name in _person(each, found)]


def _person(value: object, found: Sequence[Thing]) -> Iterator[str]:
    if isinstance(value, str):
        yield words(value)
    elif isinstance(value, dict):
        name = words(value.get("name"))
        if not name and (identity := value.get("@id")):
            name = next((words(each["name"]) for each in found if each.get("@id") == identity and "name" in each), "")
        yield name


def address(value: object) -> str:
    """Of an image or page, said as a string, an object or a list."""
    if isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, dict):
        value = value.get("url") or value.get("contentUrl") or value.get("@id")
    return value if isinstance(value, str) else ""


def _loaded(script: str) -> object:
    text = _WRAPPED.sub("", _WRAPPED.sub("", script)).strip().rstrip(";")
    for attempt in (text, _LAST_COMMA.sub(r"\1", text)):
        try:
            return json.loads(attempt, strict=False)
        except ValueError:
            continue
        except RecursionError:  # nested deeper than any page has a reason to
            return None
    return None
