"""Float32 numbers as JSON: the shortest decimal that is read back as the same float32.

Most numbers of a vector take 8 digits, where Python's own text of a float has 17. In plain Python a number takes about
a microsecond: a vector of 384 less than half a millisecond, where the model took three. NumPy would not be faster, only
packages that need it; clients in a hurry ask for base64, as OpenAI's own do.
"""

from __future__ import annotations

from array import array
from itertools import compress
from operator import eq, ne
from typing import Final

LONGER: Final = (8, 9)  # digits, if 7 are not enough; 9 always are
SMALL: Final = 1e-3  # below it 6 digits may be enough although the nearest number of 7 digits has all of them


def floats_json(numbers: array[float]) -> str:
    """Finite float32 numbers of at most about 1, with commas between them."""
    texts = _texts(numbers, 7)
    wrong = list(compress(range(len(numbers)), map(ne, numbers, _read(texts))))
    for digits in LONGER:
        some = array("f", [numbers[index] for index in wrong])
        longer = _texts(some, digits)
        for index, text in zip(wrong, longer, strict=True):
            texts[index] = text
        wrong = list(compress(wrong, map(ne, some, _read(longer))))
    small = [index for index, number in enumerate(numbers) if -SMALL < number < SMALL]
    some = array("f", [numbers[index] for index in small])
    shorter = _texts(some, 6)
    for index, text in compress(zip(small, shorter, strict=True), map(eq, some, _read(shorter))):
        texts[index] = text
    return ",".join(texts)


def _texts(numbers: array[float], digits: int) -> list[str]:
    return (f"%.{digits}g," * len(numbers) % tuple(numbers)).split(",")[: len(numbers)]


def _read(texts: list[str]) -> array[float]:
    return array("f", map(float, texts))
