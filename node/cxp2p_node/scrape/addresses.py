"""Addresses in a page made absolute, and those that lead nowhere left out."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urljoin, urlsplit

ADDRESS_CHARACTERS_MAX: Final = 2_048  # as for the address of a page itself

_ELSEWHERE: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:")
_KEPT: Final = re.compile(r"(?:https?|ftp|mailto|tel):", re.IGNORECASE)
_SPACE: Final = re.compile(r"[\t\n\r\f]+")
_UNSAFE: Final = re.compile(r"[\s<>\"`\\^{|}\x00-\x1f\x7f]")


class Addresses:
    """Resolves what a page says against the address that it has, or the one that its <base> says."""

    def __init__(self, url: str, base: str = "") -> None:
        self._base = _joined(url, base.strip()) or url if base else url
        parts = _split(self._base)
        self._origin = f"{parts[0]}://{parts[1]}" if parts[1] else ""
        self._scheme = parts[0]
        self._page = _split(url)[:3]
        self._known: dict[str, str] = {}

    def absolute(self, reference: str) -> str:
        """The address that `reference` means, "" if it is none that can be followed."""
        known = self._known.get(reference)
        if known is None:
            known = self._known[reference] = self._absolute(reference)
        return known

    def within_page(self, reference: str) -> bool:
        """Whether it leads to a place in this very page."""
        return reference.lstrip().startswith("#") or (
            "#" in reference and _split(self.absolute(reference))[:3] == self._page
        )

    def _absolute(self, reference: str) -> str:
        reference = _SPACE.sub("", reference.strip())
        if not reference or len(reference) > ADDRESS_CHARACTERS_MAX:
            return ""
        if _ELSEWHERE.match(reference):
            url = reference if _KEPT.match(reference) else ""
        elif reference.startswith("//"):
            url = f"{self._scheme}:{reference}"
        elif reference.startswith("/") and "/." not in reference:
            url = self._origin + reference
        else:
            url = _joined(self._base, reference)
        return _UNSAFE.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), url)


def _joined(base: str, reference: str) -> str:
    try:
        return urljoin(base, reference)
    except ValueError:  # of a host in brackets that is no IPv6 address
        return ""


def _split(url: str) -> tuple[str, str, str]:
    try:
        parts = urlsplit(url)
    except ValueError:
        return ("", "", "")
    return (parts.scheme, parts.netloc, parts.path or "/")
