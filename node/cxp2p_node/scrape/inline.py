"""A line of text as Markdown that any CommonMark parser reads as the same text."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from cxp2p_node.scrape.blocks import (
    Break,
    Close,
    Formula,
    Image,
    InlineCode,
    Line,
    LinkEnd,
    LinkStart,
    Mark,
    Open,
)

_SPECIAL: Final = re.compile(r"[\\`*_\[\]<&~!]")
_ESCAPED: Final = re.compile(
    r"""[\\`*]
      | (?<![^\W_])_ | _(?![^\W_])                # within a word an underscore is nothing special
      | \](?=[(\[:]|$) | \[(?=[ xX]\]) | !(?=\[|$)
      | <(?=[a-zA-Z/!?]|$)
      | &(?=\#?[a-zA-Z0-9]+;|$)
      | ~(?=~) | (?<=~)~ | ~$ | ^~
    """,
    re.VERBOSE,
)
_LINE_START: Final = re.compile(r"\d{1,9}(?=[.)](?:\s|$))|(?=\#{1,6}(?:\s|$)|>|[-+](?:\s|$)|=+\s*$|[-:|\s]+$)")
_BRACKETS: Final = re.compile(r"([\[\]])")
_BACKTICKS: Final = re.compile(r"`+")
_MARKERS: Final = {Mark.STRONG: "**", Mark.EMPHASIS: "*", Mark.STRUCK: "~~"}
_TAGS: Final = {Mark.RAISED: "sup", Mark.LOWERED: "sub"}
_ADDRESS_AS_TEXT: Final = re.compile(r"https?://[^\s<>]+")


def escaped(text: str) -> str:
    """Text that means itself. `text` is a part of a line, not its beginning."""
    return _ESCAPED.sub(_backslash, text) if _SPECIAL.search(text) else text


def _backslash(found: re.Match[str]) -> str:
    return "\\" + found[0]


def begun(line: str) -> str:
    """A line of text that starts no list, heading, quote or rule."""
    if (found := _LINE_START.match(line)) is None:
        return line
    at = found.end()
    return f"{line[:at]}\\{line[at:]}"


def code_span(text: str) -> str:
    """Code within a line."""
    ticks = "`" * (1 + max(map(len, _BACKTICKS.findall(text)), default=0))
    padding = " " if text[:1] == "`" or text[-1:] == "`" else ""
    return f"{ticks}{padding}{text}{padding}{ticks}"


def address(url: str) -> str:
    """The address of a link, so that its parentheses do not end it."""
    if "(" in url or ")" in url:
        return url.replace("(", "%28").replace(")", "%29")
    return url


def markdown_line(line: Line, line_break: str = "\\\n") -> str:
    """One paragraph. `line_break` stands for a new line in it."""
    writer = _Writer(line_break)
    for index, piece in enumerate(line):
        writer.add(piece, line, index)
    text = "".join(writer.finished())
    if line_break != "\\\n":
        return text
    return "\n".join(begun(part) for part in text.split("\n")) if "\n" in text else begun(text)


class _Writer:
    """Marks of emphasis are settled at the end: whether they work depends on the characters on both sides."""

    def __init__(self, line_break: str) -> None:
        self._break = line_break
        self._out: list[str] = []
        self._marks: list[tuple[int, int]] = []  # where in `out` an emphasis begins and ends
        self._begun: tuple[Mark, int] | None = None
        self._links: list[tuple[int, str]] = []
        self._codes: list[tuple[int, str]] = []

    def add(self, piece: object, line: Line, index: int) -> None:
        out = self._out
        match piece:
            case str():
                out.append(_bracketed(piece) if self._links else escaped(piece))
            case Open(mark):
                self._open(mark)
            case Close(mark):
                self._close(mark)
            case LinkStart(url):
                self._links.append((len(out), url))
                out.append("[")
            case LinkEnd() if self._links:
                self._end_link(line, index)
            case InlineCode(text):
                self._codes.append((len(out), text))
                out.append(code_span(text))
            case Formula(tex, alone):
                out.append(f"$${tex}$$" if alone else f"${tex}$")
            case Image(alt, url):
                out.append(f"![{_bracketed(alt)}]({address(url)})")
            case Break():
                out.append(" " if self._links else self._break)

    def _open(self, mark: Mark) -> None:
        if (tag := _TAGS.get(mark)) is not None:
            self._out.append(f"<{tag}>")
        elif self._begun is None:  # emphasis within emphasis says no more, and parsers disagree about it
            self._begun = (mark, len(self._out))
            self._out.append("")

    def _close(self, mark: Mark) -> None:
        if (tag := _TAGS.get(mark)) is not None:
            self._out.append(f"</{tag}>")
        elif self._begun is not None and self._begun[0] is mark:
            start = self._begun[1]
            self._begun = None
            self._marks.append((start, len(self._out)))
            self._out.append(_MARKERS[mark])

    def _end_link(self, line: Line, index: int) -> None:
        start, url = self._links.pop()
        text = "".join(self._out[start + 1 :])
        before = line[index - 1] if index else ""
        if not text.strip():
            self._out[start] = ""
        elif before == url and len(self._out) == start + 2 and _ADDRESS_AS_TEXT.fullmatch(url):
            self._out[start:] = [f"<{url}>"]
        else:
            self._out.append(f"]({address(url)})")

    def finished(self) -> list[str]:
        """What was written. An emphasis that a parser would not see is left out: the text stays."""
        out = self._out
        previous = -1  # where the last emphasis that was kept has its end
        for start, end in self._marks:
            marker = out[end]
            out[end] = ""
            before = _last(out, start)
            inner = "".join(out[start + 1 : end])
            after = _first(out, end + 1)
            if inner.strip() and _opens(before, inner[0]) and _closes(inner[-1], after) and before not in "*~":
                if previous >= 0 and not "".join(out[previous + 1 : start]):
                    continue
                out[start] = out[end] = marker
                previous = end
        self._join_codes()
        return out

    def _join_codes(self) -> None:
        """Two code spans with nothing between them would be one with other backticks."""
        before: tuple[int, str] | None = None
        for index, text in self._codes:
            if index >= len(self._out):
                break
            if before is not None and not any(self._out[before[0] + 1 : index]):
                text = before[1] + text
                self._out[before[0]] = ""
                self._out[index] = code_span(text)
            before = (index, text)


def _last(out: list[str], index: int) -> str:
    return next((out[number][-1] for number in range(index - 1, -1, -1) if out[number]), " ")


def _first(out: list[str], index: int) -> str:
    return next((out[number][0] for number in range(index, len(out)) if out[number]), " ")


def _opens(before: str, after: str) -> bool:
    """Whether a marker between these two is left-flanking."""
    return not after.isspace() and (not _punctuation(after) or before.isspace() or _punctuation(before))


def _closes(before: str, after: str) -> bool:
    """Whether a marker between these two is right-flanking."""
    return not before.isspace() and (not _punctuation(before) or after.isspace() or _punctuation(after))


def _punctuation(character: str) -> bool:
    return unicodedata.category(character)[0] in "PS"


def _bracketed(text: str) -> str:
    """Text between brackets: each bracket of its own is escaped."""
    if "[" not in text and "]" not in text:
        return escaped(text)
    return "".join(f"\\{part}" if part in ("[", "]") else escaped(part) for part in _BRACKETS.split(text))
