"""Which encoding the bytes of a page have."""

from __future__ import annotations

import pytest

from cxp2p_node.scrape.decode import decode

RUSSIAN = "Сегодня в Москве открылась новая железная дорога, и эксперты говорят, что транспорт сильно изменится."
JAPANESE = "東京で新しい鉄道が開業した。日本の交通はこれで大きく変わると専門家は述べている。"
GREEK = "Σήμερα στην Αθήνα άνοιξε μια νέα σιδηροδρομική γραμμή."
FRENCH = "La nouvelle ligne a été ouverte à Genève, et ça va changer «énormément», voilà."


def meta(charset: str) -> str:
    return f'<meta http-equiv="Content-Type" content="text/html; charset={charset}">'


@pytest.mark.parametrize(
    "label", ["windows-1251", "CP1251", "koi8-r", "utf8", " utf-8 ", "iso-8859-5", "x-mac-cyrillic"]
)
def test_the_header_says_the_encoding(label: str) -> None:
    """By any name that the standard knows it by."""
    codec = {"x-mac-cyrillic": "mac_cyrillic"}.get(label, label.strip())

    assert decode(RUSSIAN.encode(codec), f'text/html; charset="{label.strip()}"')[0] == RUSSIAN


def test_the_header_wins_over_the_page() -> None:
    text, name = decode((meta("koi8-r") + RUSSIAN).encode("cp1251"), "text/html; charset=windows-1251")

    assert name == "windows-1251"
    assert RUSSIAN in text


@pytest.mark.parametrize(
    ("codec", "mark"), [("utf-8", b"\xef\xbb\xbf"), ("utf-16-le", b"\xff\xfe"), ("utf-16-be", b"\xfe\xff")]
)
def test_a_byte_order_mark_wins_over_all(codec: str, mark: bytes) -> None:
    assert decode(mark + RUSSIAN.encode(codec), "text/html; charset=koi8-r")[0] == RUSSIAN


@pytest.mark.parametrize("declared", [meta("shift_jis"), "<meta charset=Shift_JIS>", "<META CHARSET='x-sjis' />"])
def test_the_page_declares_its_encoding(declared: str) -> None:
    text, name = decode((declared + JAPANESE).encode("shift_jis"), "text/html")

    assert (name, text) == ("shift_jis", declared + JAPANESE)


def test_xml_declares_its_encoding() -> None:
    page = f'<?xml version="1.0" encoding="windows-1253"?><p>{GREEK}</p>'

    assert decode(page.encode("cp1253"), "application/xml") == (page, "windows-1253")


def test_a_declaration_after_the_first_kilobyte_is_not_read() -> None:
    """The standard stops looking there."""
    page = f"<!-- {'x' * 1100} -->{meta('koi8-r')}é"

    assert decode(page.encode(), "text/html")[1] == "utf-8"


@pytest.mark.parametrize(
    "page",
    [
        "<!-- <meta charset=koi8-r> -->é",
        '<meta name="description" content="about charset=koi8-r">é',
        "<meta charset=no-such-thing>é",
        "<meta charset=utf-16>é",
    ],
)
def test_what_is_no_declaration_is_not_taken_for_one(page: str) -> None:
    """Comments, descriptions, unknown names, and UTF-16 said in ASCII."""
    assert decode(page.encode(), "text/html") == (page, "utf-8")


@pytest.mark.parametrize(
    ("text", "codec"),
    [(RUSSIAN, "cp1251"), (RUSSIAN, "koi8_r"), (JAPANESE, "euc_jp"), (GREEK, "cp1253"), (FRENCH, "cp1252")],
)
def test_nothing_declared_is_guessed(text: str, codec: str) -> None:
    assert decode(text.encode(codec), "text/html")[0] == text


def test_utf8_with_a_few_broken_bytes_is_utf8() -> None:
    """A page that was cut off in the middle of a character is not in some other encoding."""
    text, name = decode((RUSSIAN * 20).encode()[:-1], "text/html")

    assert name == "utf-8"
    assert text.startswith(RUSSIAN)


@pytest.mark.parametrize("body", [b"", b"\0" * 100, bytes(range(256)) * 40, b"\xff\xfe\x00", b"\xff" * 5000])
def test_any_bytes_are_decoded(body: bytes) -> None:
    """Nothing that a server sends makes it fail, and no half of a character comes out."""
    for content_type in (
        "",
        "text/html",
        "text/html; charset=utf-16",
        "text/html; charset=iso-2022-jp",
        "x; charset=\0",
    ):
        decode(body, content_type, "http://[bad")[0].encode()
