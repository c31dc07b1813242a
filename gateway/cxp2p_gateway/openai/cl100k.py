"""Token ids of OpenAI's `cl100k_base` as the text that they are: some clients send those whatever the model is.

Only the way back to text is needed: a table of bytes. The file is the one that tiktoken reads, a line for each token:
its bytes in base64, and its id. It is not part of this program; the operator says where it is.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cxp2p.errors import SettingsError

SHA256: Final = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"  # as tiktoken pins it
FILE_BYTES_MAX: Final = 1 << 22  # it has 1,681,126


@dataclass(frozen=True, slots=True, repr=False)
class Cl100k:
    """The bytes of each token, by its id."""

    pieces: tuple[bytes, ...]

    def text(self, ids: Sequence[int]) -> str:
        """What the ids were made of; a letter that was cut at either end is a mark. All are below `len(pieces)`."""
        return b"".join([self.pieces[each] for each in ids]).decode(errors="replace")


def load_cl100k(path: Path, sha256: str = SHA256) -> Cl100k:
    """The table in a file. Raises SettingsError, which says what the file should be."""
    try:
        with path.expanduser().open("rb") as source:
            data = source.read(FILE_BYTES_MAX)
    except OSError as error:
        raise SettingsError(f"embeddings.cl100k_path: {path} cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise SettingsError(
            f"embeddings.cl100k_path: {path} is not OpenAI's cl100k_base.tiktoken, whose SHA-256 is {sha256}"
        )
    try:
        rows = [line.split() for line in data.splitlines()]
        found = {int(number): base64.b64decode(piece, validate=True) for piece, number in rows}
        return Cl100k(tuple(found[number] for number in range(len(rows))))
    except (ValueError, KeyError, binascii.Error) as error:
        raise SettingsError(f"embeddings.cl100k_path: {path} is no table of tokens: {error}") from error
