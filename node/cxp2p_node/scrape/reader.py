"""Reads the tree of a page, or a part of it, into blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from cxp2p_node.scrape.addresses import Addresses
from cxp2p_node.scrape.blocks import (
    Block,
    Break,
    Close,
    Code,
    Formula,
    Heading,
    Image,
    InlineCode,
    Line,
    LinkEnd,
    LinkStart,
    Listing,
    Mark,
    Open,
    Paragraph,
    Quote,
    Rule,
)
from cxp2p_node.scrape.code import code_text, is_fragment, language
from cxp2p_node.scrape.formulas import formula, formula_of_image
from cxp2p_node.scrape.pictures import picture
from cxp2p_node.scrape.tables import holds_data, read_table
from cxp2p_node.scrape.tags import HEADINGS, names
from cxp2p_node.scrape.tree import LINE, Node, NodeOrText

NESTING_MAX: Final = 16  # lists and quotes in each other; deeper ones join the one that they are in

_MARKS: Final = {
    **dict.fromkeys(("b", "strong", "summary", "dt"), Mark.STRONG),
    **dict.fromkeys(("em", "i", "cite", "dfn", "var"), Mark.EMPHASIS),
    **dict.fromkeys(("del", "s", "strike"), Mark.STRUCK),
    "sup": Mark.RAISED,
    "sub": Mark.LOWERED,
}
_LISTS: Final = names("ul ol menu dir")
_SILENT: Final = names(
    "noscript button select textarea input head title meta link rp embed track source param col colgroup area map"
)
_VERBATIM: Final = names("pre listing xmp")
_INLINE_CODE: Final = names("code kbd samp tt")


def read(root: Node, addresses: Addresses, links: bool) -> list[Block]:
    """The blocks of `root`, without what is `gone`. `links`: addresses of links are kept."""
    reader = _Reader(addresses, links, in_cell=False)
    reader.walk(root)
    return reader.blocks()


class _Reader:
    def __init__(self, addresses: Addresses, links: bool, in_cell: bool) -> None:
        self._addresses = addresses
        self._links = links
        self._in_cell = in_cell
        self._first: list[Block] = []
        self._into: list[list[Block] | None] = [self._first]  # innermost last: where blocks go; None: between items
        self._inside: list[Quote | Listing | None] = []  # the list or quote that each open element made
        self._line: Line = []
        self._wanted: list[Mark | str | None] = []  # marks and addresses of links that are open, outermost first
        self._made = 0  # how many of them the line has
        self._heading = 0

    def blocks(self) -> list[Block]:
        self._end_line()
        return self._first

    def walk(self, root: Node) -> None:
        """Goes through everything in `root`, without recursion: pages nest as deep as they like."""
        waiting: list[tuple[Node, Iterator[NodeOrText]]] = [(root, iter(root.children))]
        while waiting:
            node, children = waiting[-1]
            for child in children:
                if isinstance(child, str):
                    if not node.bare:
                        self._text(child)
                elif not child.gone and self._start(child):
                    waiting.append((child, iter(child.children)))
                    break
            else:
                waiting.pop()
                if waiting:
                    self._end(node)

    # Elements.

    def _start(self, node: Node) -> bool:
        """Whether to go into it."""
        tag = node.tag
        if (whole := _WHOLE.get(tag)) is not None and whole(self, node):
            return False
        if tag in _SILENT and not (tag == "button" and self._heading):  # questions that unfold are buttons
            return False
        if tag == "label" and "for=" in node.raw:
            return False
        if tag == "div" and is_fragment(node):
            return not self._verbatim(node)
        if tag in LINE:
            if not self._heading:
                self._end_line()
            elif self._line:
                self._text(" ")
            self._start_block(node, tag)
        if (mark := _MARKS.get(tag)) is not None:
            self._wanted.append(mark)
        elif tag == "a":
            self._wanted.append(self._address(node))
        elif tag == "q":
            self._text('"')
        elif tag == "rt":
            self._text("(")
        return True

    def _start_block(self, node: Node, tag: str) -> None:
        if tag in HEADINGS:
            self._heading = self._heading or int(tag[1])
        elif tag in _LISTS:
            self._nest(Listing(_first_number(node) if tag == "ol" else None))
        elif tag == "blockquote":
            self._nest(Quote())
        elif tag == "li" and (listing := self._listing()) is not None:
            listing.items.append([])
            self._into.append(listing.items[-1])

    def _nest(self, made: Quote | Listing) -> None:
        fits = len(self._inside) < 4 * NESTING_MAX and sum(each is not None for each in self._inside) < NESTING_MAX
        self._inside.append(made if fits else None)
        if fits:
            self._put(made)
            self._into.append(made.blocks if isinstance(made, Quote) else None)

    def _put(self, block: Block) -> None:
        into = self._into[-1]
        if into is None:  # of a list, but of none of its items: lists that are not well written
            listing = self._listing()
            assert listing is not None
            if not listing.items:
                listing.items.append([])
            into = listing.items[-1]
        into.append(block)

    def _listing(self) -> Listing | None:
        inner = self._inside[-1] if self._inside else None
        return inner if isinstance(inner, Listing) else None

    def _end(self, node: Node) -> None:
        tag = node.tag
        if tag in _MARKS or tag == "a":
            self._close()
        elif tag == "q":
            self._text('"')
        elif tag == "rt":
            self._text(")")
        if tag not in LINE:
            return
        if self._heading and tag not in HEADINGS:
            return
        self._end_line()
        self._heading = 0
        if tag in _LISTS or tag == "blockquote":
            if self._inside.pop() is not None:
                self._into.pop()
        elif tag == "li" and self._listing() is not None:
            self._into.pop()

    def _address(self, node: Node) -> str | None:
        """Of a link; None for one that stays plain text."""
        reference = node.get("href")
        if not self._links or not reference or self._addresses.within_page(reference):
            return None
        return self._addresses.absolute(reference) or None

    # Lines.

    def _text(self, text: str) -> None:
        words = text.split()
        if not words:
            self._space()
            return
        if text[0].isspace():
            self._space()
        self._make()
        line = self._line
        joined = " ".join(words)
        if line and isinstance(line[-1], str):
            line[-1] += joined
        else:
            line.append(joined)
        if text[-1].isspace():
            self._space()

    def _space(self) -> None:
        line = self._line
        if not line or isinstance(line[-1], Break):
            return
        last = line[-1]
        if not isinstance(last, str):
            line.append(" ")
        elif last[-1] != " ":
            line[-1] = last + " "

    def _add(self, piece: InlineCode | Formula | Image) -> None:
        self._make()
        self._line.append(piece)

    def _make(self) -> None:
        """Opens in the line what is wanted and not yet open in it."""
        while self._made < len(self._wanted):
            wanted = self._wanted[self._made]
            if isinstance(wanted, Mark):
                self._line.append(Open(wanted))
            elif wanted is not None:
                self._line.append(LinkStart(wanted))
            self._made += 1

    def _close(self) -> None:
        """Closes the innermost mark or link."""
        wanted = self._wanted.pop()
        if self._made <= len(self._wanted):
            return
        self._made -= 1
        self._closing(wanted)

    def _closing(self, wanted: Mark | str | None) -> None:
        if wanted is None:
            return
        line = self._line
        last = line[-1] if line else None
        spaced = isinstance(last, str) and last.endswith(" ")
        if isinstance(last, str) and spaced:
            if last != " ":
                line[-1] = last[:-1]
            else:
                line.pop()
        line.append(Close(wanted) if isinstance(wanted, Mark) else LinkEnd())
        if spaced:
            line.append(" ")

    def _break(self, node: Node) -> bool:
        line = self._line
        if self._heading:
            self._text(" ")
        elif not line:
            pass
        elif isinstance(line[-1], Break):  # two in a row: old pages make paragraphs so
            self._end_line()
        else:
            if isinstance(line[-1], str) and line[-1].endswith(" "):
                line[-1] = line[-1][:-1]
                if not line[-1]:
                    line.pop()
            line.append(Break())
        return True

    def _end_line(self) -> None:
        for index in range(self._made - 1, -1, -1):
            self._closing(self._wanted[index])
            if isinstance(self._wanted[index], str):
                self._wanted[index] = None  # a link over several blocks is said once
        self._made = 0
        line = self._line
        while line and (isinstance(line[-1], Break) or line[-1] == " "):
            line.pop()
        if not line:
            return
        if isinstance(line[-1], str):
            line[-1] = line[-1].rstrip()
        self._line = []
        if self._heading:
            self._put(Heading(self._heading, line))
        else:
            self._put(Paragraph(line))

    # Elements that are read as a whole: whether it was.

    def _verbatim(self, node: Node) -> bool:
        self._end_line()
        if text := code_text(node):
            self._put(Code(text, language(node)))
        return True

    def _code(self, node: Node) -> bool:
        if any(child.tag in ("a", "img") for child in node.elements()) and self._links:
            return False
        text = code_text(node) if any(child.tag == "br" for child in node.elements()) else node.text().strip("\n")
        alone = (
            node.parent is not None and node.parent.tag in ("div", "figure", "td", "li", "section") and not self._line
        )
        if "\n" in text and alone and not self._in_cell:
            self._end_line()
            self._put(Code(code_text(node), language(node)))
        elif words := " ".join(text.split()):
            if text[0].isspace():
                self._space()
            self._add(InlineCode(words))
            if text[-1].isspace():
                self._space()
        return True

    def _rule(self, node: Node) -> bool:
        self._end_line()
        if (into := self._into[-1]) and not isinstance(into[-1], Rule):
            into.append(Rule())
        return True

    def _image(self, node: Node) -> bool:
        shown = formula_of_image(node) or picture(node, self._addresses)
        if isinstance(shown, str):
            self._text(shown)
        elif shown is not None:
            self._add(shown)
        return True

    def _math(self, node: Node) -> bool:
        if (shown := formula(node)) is None:
            return False
        if shown.alone and not self._heading:
            self._end_line()
        self._add(shown)
        if shown.alone and not self._heading:
            self._end_line()
        return True

    def _table(self, node: Node) -> bool:
        if self._in_cell or self._heading or not holds_data(node):
            return False
        self._end_line()
        for part in node.elements():
            if part.tag == "caption" and not part.gone:
                self.walk(part)
                self._end_line()
        self._put(read_table(node, self._cell))
        return True

    def _cell(self, node: Node) -> Line:
        if len(node.children) == 1 and isinstance(only := node.children[0], str):
            words = " ".join(only.split())
            return [words] if words else []
        inner = _Reader(self._addresses, self._links, in_cell=True)
        inner.walk(node)
        line: Line = []
        _flatten(inner.blocks(), line)
        return line

    def _checkbox(self, node: Node) -> bool:
        if node.get("type") == "checkbox" and node.parent is not None and "li" in (node.parent.tag, node.block.tag):
            self._text("[x] " if "checked" in node.attributes else "[ ] ")
        return True


_WHOLE: Final[dict[str, Callable[[_Reader, Node], bool]]] = {
    "br": _Reader._break,
    "hr": _Reader._rule,
    "img": _Reader._image,
    "input": _Reader._checkbox,
    "math": _Reader._math,
    "table": _Reader._table,
    **dict.fromkeys(_VERBATIM, _Reader._verbatim),
    **dict.fromkeys(_INLINE_CODE, _Reader._code),
}


def _first_number(node: Node) -> int:
    value = node.get("start").strip()
    return int(value) if value.isdecimal() and value.isascii() and len(value) < 10 else 1


def _flatten(blocks: list[Block], line: Line) -> None:
    """The blocks of a cell as one line, with a break between them."""
    for block in blocks:
        if line and not isinstance(line[-1], Break):
            line.append(Break())
        if isinstance(block, (Paragraph, Heading)):
            line.extend(block.line)
        elif isinstance(block, Code):
            for number, text in enumerate(block.text.split("\n")):
                if number:
                    line.append(Break())
                if text.strip():
                    line.append(InlineCode(text))
        elif isinstance(block, Quote):
            _flatten(block.blocks, line)
        elif isinstance(block, Listing):
            for item in block.items:
                _flatten(item, line)
                if line and not isinstance(line[-1], Break):
                    line.append(Break())
    while line and isinstance(line[-1], Break):
        line.pop()
