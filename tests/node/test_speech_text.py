"""Which letters a voice reads."""

from __future__ import annotations

import pytest

from cxp2p_node.engines.speech_text import readable


@pytest.mark.parametrize(
    ("language", "text", "read"),
    [
        ("en-us", "Hello, world!", "Hello, world!"),
        ("en-us", "Café naïve Ω Привет 3½", "Café naïve Ω Привет 3½"),
        ("en-us", "Hello 你好 world", "Hello world"),
        ("en-us", "กขค", ""),
        ("en-us", "ＨＥＬＬＯ 𝐇𝐢", "HELLO Hi"),  # noqa: RUF001
        ("cmn", "你好 Hello ไทย", "你好 Hello"),
        ("hi", "नमस्ते", "नमस्ते"),
        ("ar", "مرحبا 한국", "مرحبا"),
        ("ka", "გამარჯობა", "გამარჯობა"),
        ("tlh", "Qapla' 你", "Qapla'"),
    ],
)
def test_letters_of_other_scripts_are_left_out(language: str, text: str, read: str) -> None:
    """eSpeak would say `Chinese letter` for each of them. Other forms of known letters are these letters."""
    assert readable(text, language) == read
