"""The documentation as data: pages, their tables, fenced blocks and links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^```(\S*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
OUTSIDE = ("node_modules", "dist", "build")


@dataclass(frozen=True)
class Fence:
    """A fenced block: its language, the words after it, its text, and where it begins."""

    page: str
    line: int
    language: str
    words: tuple[str, ...]
    text: str

    @property
    def runnable(self) -> bool:
        return "run" in self.words


@dataclass(frozen=True)
class Page:
    """One Markdown file. `path` is relative to the tree's root."""

    path: str
    text: str

    @cached_property
    def fences(self) -> list[Fence]:
        found = []
        for match in FENCE.finditer(self.text):
            language, words, text = match.groups()
            line = self.text.count("\n", 0, match.start()) + 1
            found.append(Fence(self.path, line, language, tuple(words.split()), text))
        return found

    @cached_property
    def prose(self) -> str:
        """The page without its fenced blocks."""
        return FENCE.sub("", self.text)

    @cached_property
    def links(self) -> list[str]:
        return LINK.findall(self.prose)

    @cached_property
    def anchors(self) -> set[str]:
        """What `#...` may follow a link to this page: GitHub's rule for headings."""
        headings = re.findall(r"^#+ +(.+?)\s*$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    def table(self, *heading: str) -> list[tuple[str, ...]]:
        """The rows of the table with these headings, without backticks. Raises LookupError if there is none."""
        lines = self.text.splitlines()
        wanted = [_cells(line) == heading for line in lines]
        if True not in wanted:
            raise LookupError(f"{self.path} has no table | {' | '.join(heading)} |")
        rows = []
        for line in lines[wanted.index(True) + 2 :]:
            if not line.startswith("|"):
                break
            rows.append(_cells(line))
        return rows

    def after(self, start: str) -> str:
        """The sentence that follows `start`, on one line. Raises LookupError if `start` is not there."""
        joined = " ".join(self.text.split())
        _, found, rest = joined.partition(start)
        if not found:
            raise LookupError(f"{self.path} does not say {start!r}")
        return re.split(r"\.(?:\s|$)", rest, maxsplit=1)[0]


def _cells(line: str) -> tuple[str, ...]:
    if not line.startswith("|"):
        return ()
    return tuple(cell.strip().strip("`") for cell in line.strip().strip("|").split("|"))


def page(path: str) -> Page:
    """The page at `path`."""
    return Page(path, (ROOT / path).read_text())


def pages() -> Iterator[Page]:
    """Every Markdown file of the tree."""
    for path in sorted(ROOT.rglob("*.md")):
        relative = path.relative_to(ROOT)
        hidden = any(part.startswith(".") and part != ".github" for part in relative.parts)
        if not hidden and not set(relative.parts) & set(OUTSIDE):
            yield page(relative.as_posix())


def names(text: str) -> list[str]:
    """The names in a list like "`a`, b (c, d) and `e`": what stands in brackets is left out."""
    flat = re.sub(r"\([^)]*\)", "", text).replace("`", "")
    return [name for part in re.split(r",| and | or ", flat) if (name := part.strip())]
