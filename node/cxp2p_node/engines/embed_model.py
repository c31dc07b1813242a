"""llama.cpp as an embedding model: its file, its tokenizer, its limits. For the worker process only: it can abort."""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp as llama

from cxp2p_node.engines.embed_encoder import Encoder
from cxp2p_node.engines.llama_library import LoadError, load_model
from cxp2p_node.engines.wordpiece import WordPiece

META_BYTES_MAX = 64
UNKNOWN = 100  # in BERT's own vocabulary, and llama.cpp's guess where a file does not say


class EmbedModel:
    """A loaded model: its tokenizer and its limits. Safe to use from several threads; encoders are not."""

    def __init__(self, path: Path, *, context_units: int | None, gpu_layers: int) -> None:
        self._model = load_model(path, gpu_layers)
        self._vocab = llama.llama_model_get_vocab(self._model)
        self.vocab_size: int = llama.llama_vocab_n_tokens(self._vocab)
        self._gpu = gpu_layers != 0
        trained = llama.llama_model_n_ctx_train(self._model)
        self.context_units = min(context_units or trained, trained)
        self._words = self._word_piece() if self._meta("tokenizer.ggml.model") == "bert" else None
        self.marks = self._marks()
        if self.context_units <= len(self.marks[0]) + len(self.marks[1]):
            raise LoadError(f"a context of {self.context_units} tokens has no room for a text")

    def encoder(self, units_max: int, threads: int) -> Encoder:
        """What computes packs of up to `units_max` tokens. Raises LoadError."""
        return Encoder(self._model, units_max, threads, gpu=self._gpu)

    def description(self) -> str:
        """Architecture, size and quantisation, in llama.cpp's words."""
        buffer = ctypes.create_string_buffer(128)
        llama.llama_model_desc(self._model, buffer, len(buffer))
        return buffer.value.decode(errors="replace")

    def tokenize(self, text: str) -> list[int]:
        """The tokens of a text, without marks. A mark that is written out in it is text."""
        return self._words.tokens(text) if self._words is not None else self._tokenize(text, marks=False)

    def _tokenize(self, text: str, *, marks: bool) -> list[int]:
        data = text.encode(errors="replace")
        room = len(data) + 8
        while True:
            tokens = (llama.llama_token * room)()
            count = llama.llama_tokenize(self._vocab, data, len(data), tokens, room, marks, False)
            if count >= 0:
                return list(tokens[:count])
            room = -count

    def _marks(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What this model wants before and after every input."""
        bare, marked = self._tokenize("a", marks=False), self._tokenize("a", marks=True)
        extra = len(marked) - len(bare)
        before = next((at for at in range(extra + 1) if marked[at : at + len(bare)] == bare), extra)
        return tuple(marked[:before]), tuple(marked[before + len(bare) :])

    def _word_piece(self) -> WordPiece:
        starts: dict[str, int] = {}
        rests: dict[str, int] = {}
        for token in range(self.vocab_size):
            if llama.llama_vocab_get_attr(self._vocab, token) & llama.LLAMA_TOKEN_ATTR_CONTROL:
                continue
            word = llama.llama_vocab_get_text(self._vocab, token).decode(errors="replace")
            pieces = starts if word.startswith("\u2581") else rests
            pieces.setdefault(word.removeprefix("\u2581"), token)
        lowercase = self._meta("tokenizer.ggml.normalizer.lowercase") != "false"
        accents = self._meta("tokenizer.ggml.normalizer.strip_accents")
        strip_accents = lowercase if accents is None else accents == "true"
        return WordPiece(starts, rests, self._unknown(), lowercase=lowercase, strip_accents=strip_accents)

    def _unknown(self) -> int:
        """The token of a word that the vocabulary does not have."""
        found = int(self._meta("tokenizer.ggml.unknown_token_id") or UNKNOWN)
        if found >= self.vocab_size:
            raise LoadError(f"its token for unknown words is {found}, of a vocabulary of {self.vocab_size}")
        return found

    def _meta(self, key: str) -> str | None:
        buffer = ctypes.create_string_buffer(META_BYTES_MAX)
        length = llama.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.value.decode(errors="replace") if length >= 0 else None
