"""The templates, and how values stand in them; the style sheet and the scripts, under names that change with them."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cxp2p_gateway.moments import day_of
from cxp2p_gateway.spending import MICRO

HERE: Final = Path(__file__).parent
NOTHING: Final = "\u2013"  # a dash
PRODUCT: Final = "Cxmpute"
KINDS: Final = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


class Assets:
    """The files in `static`, read once. `names`: how each is asked for, with a part of its hash in it."""

    def __init__(self, folder: Path) -> None:
        self.names: dict[str, str] = {}
        self.files: dict[str, tuple[str, bytes]] = {}
        for path in sorted(folder.iterdir()):
            kind = KINDS.get(path.suffix[1:])
            if kind is None:
                continue
            data = path.read_bytes()
            name = f"{path.stem}.{hashlib.sha256(data).hexdigest()[:12]}{path.suffix}"
            self.names[path.name] = f"/dashboard/static/{name}"
            self.files[name] = (kind, data)


def credits_of(micro: int | None) -> str:
    """µcredits as credits: `1,000`, `12.5`, `0.000045`."""
    if micro is None:
        return NOTHING
    text = f"{micro / MICRO:,.6f}".rstrip("0").rstrip(".")
    return text or "0"


def number_of(value: int | None) -> str:
    """A number with its thousands apart."""
    return NOTHING if value is None else f"{value:,}"


def _day_of(at_ms: int | None) -> str:
    """A day, as ISO 8601 has it; "never" for none."""
    return "never" if at_ms is None else day_of(at_ms)


def time_of(at_ms: int | None) -> str:
    """A minute, UTC."""
    return "never" if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def short_of(text: str, most: int = 16) -> str:
    """The two ends of a long id."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most // 2 - 1) :]}"


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(credits=credits_of, number=number_of, day=_day_of, time=time_of, short=short_of)
    made.globals["product"] = PRODUCT
    return made


PAGES: Final = _environment()
ASSETS: Final = Assets(HERE / "static")
