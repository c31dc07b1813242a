"""robots.txt (RFC 9309): which pages of a host a robot may fetch, and how slowly. Pure.

Of a file only what concerns one robot is kept: the rules of the groups that name it or, if none does, of those for `*`.
Reading a file and asking it takes time in proportion to its size, whatever it holds: it is a stranger's.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

FILE_BYTES_MAX: Final = 500 * 1024  # what RFC 9309, 2.5 asks for; what comes after it is not read
CRAWL_DELAY_S_MAX: Final = 30.0  # who asks for more gets this; a job for 50 pages would never end
RULE_BYTES: Final = 200  # in memory, besides a rule's own text

# Lines that mean something, also as they are misspelt most often. Everything else is skipped at the speed of `re`.
_LINE: Final = re.compile(
    r"^[ \t]*(?:(user-?[ \t]?agent)|(allow)|(dis+al+ow|diasllow|disallaw)|(crawl-?[ \t]?delay))"
    r"[ \t]*:[ \t]*([^#\r\n]*)",
    re.IGNORECASE | re.MULTILINE,
)
_TOKEN: Final = re.compile(r"[a-z_-]+|\*", re.IGNORECASE)
_ENCODED: Final = re.compile(r"%([0-9a-f]{2})", re.IGNORECASE)
_UNSAFE: Final = re.compile(r"[^\x21-\x7e]")
_UNRESERVED: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")
_IN_QUERY: Final = _UNRESERVED | {":", "/"}  # RFC 9309, 2.2.2: the same there, encoded or not


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a group. `parts` are what stands between the stars; `whole`: nothing may follow the last one."""

    allow: bool
    length: int
    parts: tuple[str, ...]
    whole: bool

    def matches(self, path: str) -> bool:
        """Whether this rule is about a path that `as_compared` made."""
        first, *others = self.parts
        if not path.startswith(first):
            return False
        if not others:
            return not self.whole or len(path) == len(first)
        at = len(first)
        for part in others[:-1]:
            found = path.find(part, at)
            if found < 0:
                return False
            at = found + len(part)
        last = others[-1]
        return path.endswith(last) and len(path) - len(last) >= at if self.whole else path.find(last, at) >= 0


@dataclass(frozen=True, slots=True)
class Robots:
    """What a file says to one robot. `rules`: the longest first, and of equal ones those that allow."""

    rules: tuple[Rule, ...] = ()
    delay_s: float = 0.0

    @property
    def weight(self) -> int:
        """About how many bytes of memory it takes."""
        return RULE_BYTES + sum(RULE_BYTES + rule.length for rule in self.rules)

    def allows(self, path: str) -> bool:
        """Whether a path, with its query, may be fetched: the longest rule that is about it decides."""
        asked = as_compared(path)
        return next((rule.allow for rule in self.rules if rule.matches(asked)), True)


ALLOW_ALL: Final = Robots()
UNKNOWN: Final = Robots((Rule(False, 1, ("/",), False),))  # a file that cannot be had allows nothing


def token_of(user_agent: str) -> str:
    """The name that a robot of this User-Agent has in robots.txt: "CxmputeBot" of "CxmputeBot/1.0 (+https://...)"."""
    found = _TOKEN.match(user_agent)
    return found[0].lower() if found and found[0] != "*" else ""


def robots_of(file: bytes, token: str) -> Robots:
    """What the file says to the robot of that name, in small letters. What is not understood is skipped."""
    text = file[:FILE_BYTES_MAX].decode("utf-8-sig", "replace")
    if len(file) > FILE_BYTES_MAX:
        text = text[: text.rfind("\n") + 1]
    named, others = _Group(), _Group()
    here: list[_Group] = []  # whom the lines are for: the robot by its name, all others, both or neither
    in_rules = True
    for line in _LINE.finditer(text):
        agent, allow, _, delay, value = line.groups()
        if agent is None:
            in_rules = True
            for group in here:
                group.take_delay(value) if delay else group.take(allow is not None, value.strip())
            continue
        here = [] if in_rules else here
        in_rules = False
        who = _TOKEN.match(value)
        if who is not None and who[0].lower() in ("*", token):
            group = others if who[0] == "*" else named
            group.told = True
            if group not in here:  # a line that stands there ten thousand times says no more than once
                here.append(group)
    return named.robots() if named.told else others.robots()


class _Group:
    """The rules of all groups for one name."""

    def __init__(self) -> None:
        self.told = False
        self._rules: dict[Rule, None] = {}
        self._delay_s = 0.0

    def take(self, allow: bool, value: str) -> None:
        if not value:
            return  # "Disallow:" disallows nothing
        self._rules[rule_of(allow, value)] = None

    def take_delay(self, value: str) -> None:
        try:
            seconds = float(value)
        except ValueError:
            return
        if math.isfinite(seconds) and seconds > 0:
            self._delay_s = min(max(self._delay_s, seconds), CRAWL_DELAY_S_MAX)

    def robots(self) -> Robots:
        ordered = sorted(self._rules, key=lambda rule: (-rule.length, not rule.allow))
        return Robots(tuple(ordered), self._delay_s)


def rule_of(allow: bool, value: str) -> Rule:
    """The rule that a line's value means. One without a slash at its beginning is taken to have it."""
    whole = value.endswith("$")
    pattern = value[:-1] if whole else value
    if not pattern.startswith(("/", "*")):
        pattern = "/" + pattern
    compared = _compared(pattern).replace("$", "%24")
    parts = re.split(r"\*+", compared)
    return Rule(allow, len(compared) + whole, tuple(parts), whole)


def as_compared(path: str) -> str:
    """A URL's path and query in the one spelling in which they are compared with rules (RFC 9309, 2.2.2)."""
    return _compared(path).replace("*", "%2A").replace("$", "%24")


def _compared(path: str) -> str:
    safe = _UNSAFE.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "replace")), path)
    if "%" not in safe:
        return safe
    before, question, query = safe.partition("?")
    return _decoded(before, _UNRESERVED) + question + _decoded(query, _IN_QUERY)


def _decoded(text: str, letters: frozenset[str]) -> str:
    def plain(found: re.Match[str]) -> str:
        letter = chr(int(found[1], 16))
        return letter if letter in letters else found[0].upper()

    return _ENCODED.sub(plain, text)
