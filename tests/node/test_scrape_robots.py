"""robots.txt: the examples of RFC 9309, what is met in the wild, and files that are made to hurt."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p_node.scrape.robots import (
    ALLOW_ALL,
    CRAWL_DELAY_S_MAX,
    FILE_BYTES_MAX,
    UNKNOWN,
    as_compared,
    robots_of,
    rule_of,
    token_of,
)

TOKEN = "cxmputebot"


def allows(file: str, path: str, token: str = TOKEN) -> bool:
    return robots_of(file.encode(), token).allows(path)


RFC_5_1 = """
User-Agent: *
Disallow: *.gif$
Disallow: /example/
Allow: /publications/

User-Agent: foobot
Disallow:/
Allow:/example/page.html
Allow:/example/allowed.gif

User-Agent: barbot
User-Agent: bazbot
Disallow: /example/page.html

User-Agent: quxbot

EOF
"""


@pytest.mark.parametrize(
    ("token", "path", "allowed"),
    [
        *((TOKEN, "/a.gif", False), (TOKEN, "/a.gif?x", True), (TOKEN, "/example/", False), (TOKEN, "/example", True)),
        *((TOKEN, "/publications/a", True), (TOKEN, "/publications/a.gif", True), (TOKEN, "/", True)),
        *(("foobot", "/", False), ("foobot", "/example/page.html", True), ("foobot", "/example/allowed.gif", True)),
        *(("foobot", "/example/other.gif", False), ("barbot", "/example/page.html", False), ("barbot", "/x.gif", True)),
        *(("bazbot", "/example/page.html", False), ("bazbot", "/example/", True)),
        *(("quxbot", "/example/page.html", True), ("quxbot", "/a.gif", True)),
    ],
)
def test_the_simple_example_of_the_rfc(token: str, path: str, allowed: bool) -> None:
    """5.1. Of a group that names a robot only its rules hold, also if it has none."""
    assert allows(RFC_5_1, path, token) is allowed


def test_the_longest_rule_of_the_rfc_decides() -> None:
    """5.2; of equal ones the one that allows (2.2.2)."""
    file = "User-Agent: foobot\nAllow: /example/page/\nDisallow: /example/page/disallowed.gif\n"

    assert not allows(file, "/example/page/disallowed.gif", "foobot")
    assert allows(file, "/example/page/", "foobot")
    assert allows("User-agent: *\nDisallow: /same\nAllow: /same", "/same")
    assert allows("User-agent: *\nAllow: /same\nDisallow: /same", "/same")


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ("/foo/bar?baz=quz", "/foo/bar?baz=quz"),
        ("/foo/bar?baz=https://foo.bar", "/foo/bar?baz=https%3A%2F%2Ffoo.bar"),
        ("/foo/bar?baz=https%3A%2F%2Ffoo.bar", "/foo/bar?baz=https://foo.bar"),
        ("/foo/bar/\u30c4", "/foo/bar/%E3%83%84"),
        ("/foo/bar/%E3%83%84", "/foo/bar/%e3%83%84"),
        ("/foo/bar/%62%61%7A", "/foo/bar/baz"),
        ("/foo/bar/baz", "/foo/bar/%62%61%7A"),
    ],
)
def test_paths_are_compared_as_the_rfc_does(rule: str, path: str) -> None:
    """2.2.2, the first table."""
    assert not allows(f"User-agent: *\nDisallow: {rule}", path)
    assert allows(f"User-agent: *\nDisallow: {rule}", path[:-1])


@pytest.mark.parametrize(
    ("rule", "matched", "others"),
    [
        (
            "/path/file-with-a-%2A.html",
            ["/path/file-with-a-*.html", "/path/file-with-a-%2A.html"],
            ["/path/file-with-a-x.html"],
        ),
        ("/path/foo-%24", ["/path/foo-$", "/path/foo-%24x"], ["/path/foo-"]),
        ("/a$b", ["/a$b", "/a%24bc"], ["/a", "/ab"]),
        ("/*.php$", ["/x.php", "/a/b.php.php"], ["/x.php?a", "/x.php5", "/xphp"]),
        ("/fish*", ["/fish", "/fish.html", "/fishheads/y"], ["/Fish", "/catfish"]),
        ("/*/x*y", ["/a/xy", "/a/b/x/y/z"], ["/x/y", "/a/yx"]),
        ("*a*a*a$", ["/aaa", "/xaxaxa"], ["/aa", "/aaab"]),
        ("/a*$", ["/a", "/abc"], ["/b"]),
        ("/$", ["/"], ["/a", "/?x"]),
        ("private", ["/private", "/privately"], ["/x/private"]),
        ("/a/%2fb", ["/a/%2Fb"], ["/a//b"]),
    ],
)
def test_stars_and_the_end_are_special(rule: str, matched: list[str], others: list[str]) -> None:
    """2.2.3. Encoded they are not; a slash within a path is not the same when it is encoded."""
    file = f"User-agent: *\nDisallow: {rule}"

    assert [path for path in matched if allows(file, path)] == []
    assert [path for path in others if not allows(file, path)] == []


@pytest.mark.parametrize(
    "file",
    [
        "User-agent: CxmputeBot\nDisallow: /x",
        "user-agent:cxmputebot\ndisallow:/x",
        "  User-Agent :  CXMPUTEBOT # us\n\t Disallow\t: /x   # a comment",
        "User-agent: CxmputeBot/1.0 (whoever)\nDisallow: /x",
        "\ufeffUser-agent: *\nDisallow: /x",
        "User-agent: *\r\nDisallow: /x\r\n",
        "Useragent: *\nDissallow: /x",
        "User agent: *\nDisalow: /x",
        "User-agent: *\n\n\nDisallow: /x",
        "User-agent: *\nSitemap: https://example.com/s.xml\nDisallow: /x",
        "User-agent: a\nUser-agent: *\nDisallow: /x",
        "User-agent: *\nDisallow: /a\n\nUser-agent: *\nDisallow: /x",
        "User-agent: CxmputeBot\nDisallow: /a\nUser-agent: z\nAllow: /\nUser-agent: cxmputebot\nDisallow: /x",
        "nonsense\n\x00\x01\nUser-agent: *\n<html>\nDisallow: /x",
    ],
)
def test_a_rule_is_found_however_it_is_written(file: str) -> None:
    assert not allows(file, "/x/y")
    assert allows(file, "/y")


@pytest.mark.parametrize(
    "file",
    [
        "",
        "Disallow: /x",
        "User-agent: *\nDisallow:",
        "User-agent: other\nDisallow: /",
        "User-agent: cxmpute\nDisallow: /\nUser-agent: cxmputebottle\nDisallow: /",
        "User-agent: *\nDisallow: /\n\nUser-agent: CxmputeBot\nAllow: /",
        "User-agent: *\nDisallow: /\n\nUser-agent: CxmputeBot\nDisallow:",
        "# User-agent: *\n# Disallow: /",
        "<!DOCTYPE html><html><body>Not found</body></html>",
    ],
)
def test_what_is_not_for_us_keeps_us_from_nothing(file: str) -> None:
    assert allows(file, "/x")


def test_what_a_crawl_delay_belongs_to() -> None:
    """To the groups above it, the longest counts; one for another robot is not ours."""
    assert robots_of(b"User-agent: a\nCrawl-delay: 9\nUser-agent: *\nDisallow: /x", TOKEN).delay_s == 0
    assert robots_of(b"User-agent: *\nCrawl-delay: 2.5\nCrawl-delay: 1", TOKEN).delay_s == 2.5
    assert robots_of(b"User-agent: *\nCrawl-delay: 86400", TOKEN).delay_s == CRAWL_DELAY_S_MAX


def test_the_name_is_the_first_word_of_the_user_agent() -> None:
    assert token_of("CxmputeBot/0.1.0 (+https://example.com/bot)") == TOKEN
    assert token_of("*") == ""


def test_a_file_that_cannot_be_had_allows_nothing_and_one_that_is_not_there_all() -> None:
    assert ALLOW_ALL.allows("/")
    assert not UNKNOWN.allows("/")


def test_what_comes_after_the_limit_is_not_read() -> None:
    """Nor the line that the limit cuts."""
    rule = b"Disallow: /cut\n"
    start = b"User-agent: *\nDisallow: /first\n"
    filler = b"#" * (FILE_BYTES_MAX - len(start) - 1 - len(rule) // 2) + b"\n"
    robots = robots_of(start + filler + rule, TOKEN)

    assert [rule.parts for rule in robots.rules] == [("/first",)]
    assert len(robots_of(start + b"\n" + rule, TOKEN).rules) == 2


HURTING = {
    "agents times rules": b"".join(b"User-agent: a%d\n" % n for n in range(12_000)) + b"Disallow: /a\n" * 20_000,
    "us again and again": b"User-agent: *\n" * 12_000 + b"Disallow: /a\n" * 20_000,
    "many rules": b"User-agent: *\n" + b"".join(b"Allow:%d\n" % n for n in range(45_000)),
    "stars": b"User-agent: *\n" + b"".join(b"Allow:" + b"*a" * 1000 + b"b%d\n" % n for n in range(249)),
    "one rule of stars": b"User-agent: *\nAllow:" + b"*a" * 249_000,
    "needles": b"User-agent: *\n" + b"".join(b"Allow: *" + b"a" * 500 + b"b%d\n" % n for n in range(900)),
    "a long word": b"diss" + b"s" * 499_000,
    "tabs": b"\n".join([b"allow" + b"\t" * 900] * 550),
    "empty lines": b"\n" * 500_000,
    "percents": b"User-agent: *\nAllow: /" + b"%61" * 160_000,
}


@pytest.mark.parametrize("name", HURTING)
def test_no_file_takes_long(name: str) -> None:
    """To read it and to ask it: under a second on a busy machine; the worst take about 0.15 s on a quiet one."""
    begun = time.process_time()

    robots = robots_of(HURTING[name], TOKEN)
    robots.allows("/" + "a" * 2000)

    assert time.process_time() - begun < 1
    assert robots.weight < 16_000_000


PIECES = st.text(st.sampled_from("/ab*$%2Aé?"), max_size=12)


def slow_match(pattern: str, path: str, *, whole: bool) -> bool:
    """The definition: letter by letter."""
    if not pattern:
        return not path or not whole
    if pattern[0] == "*":
        return any(slow_match(pattern[1:], path[skip:], whole=whole) for skip in range(len(path) + 1))
    return bool(path) and path[0] == pattern[0] and slow_match(pattern[1:], path[1:], whole=whole)


@given(PIECES, PIECES, st.booleans())
def test_rules_match_by_their_definition(pattern: str, path: str, whole: bool) -> None:
    """What is found piece by piece is found letter by letter, and the other way round."""
    rule = rule_of(True, "/" + pattern + "$" * whole)
    compared = "*".join(rule.parts)

    assert rule.matches(as_compared("/" + path)) is slow_match(compared, as_compared("/" + path), whole=rule.whole)


@given(st.binary(max_size=300), st.text(max_size=50))
def test_any_bytes_are_a_robots_txt(file: bytes, path: str) -> None:
    robots_of(b"User-agent: *\n" + file, TOKEN).allows(path)
