"""Text to tokens: bytes, and a token for each word of a small vocabulary read from the captions.

Nothing to download; every language can be spelled. A word of the vocabulary costs one token instead
of one a letter, so text rows are several times shorter and a small model need not learn to spell.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from vidsim.core.errors import bad
from vidsim.core.host_random import stable_hash

PAD, BOS, FIRST_BYTE = 0, 1, 2
VOCAB = 256 + FIRST_BYTE
_PARTS = re.compile(r" ?[^\W\d_]+|.", re.DOTALL)  # words with the space before them; one sign
_PIECES = re.compile(r" ?[^\W\d_]+(?:-[^\W\d_]+)*|.", re.DOTALL)  # the same, "down-left" in one


def clean(text: str) -> str:
    """NFC form, control characters to spaces, white space collapsed."""
    plain = unicodedata.normalize("NFC", text)
    return " ".join("".join(c if c.isprintable() else " " for c in plain).split())


def frequent_words(texts: Iterable[str], most: int) -> tuple[str, ...]:
    """The most frequent words that occur at least twice, at most so many; ties by alphabet.

    Parts that hyphens join are one word; what follows another sign without a space is none.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        pieces = _PIECES.findall(f" {text}")
        counts.update(piece[1:] for piece in pieces if len(piece) > 1 and piece[0] == " ")
    ranked = sorted((-n, word) for word, n in counts.items() if n > 1)
    return tuple(word for _, word in ranked[:most])


class Tokenizer:
    """Tokens behind a start token: 0 pads, 1 starts, byte b is b + 2, word k is 258 + k.

    A word token stands for the word and the space before it (none at the start of a text).

    max_tokens  longest result of `encode`, start token included
    words       the vocabulary; empty: bytes alone
    vocab       token ids
    hash        identity of the scheme; the same for every max_tokens, so that counts hold whatever
                the length of a row of text
    """

    def __init__(self, max_tokens: int, words: Sequence[str] = ()) -> None:
        if max_tokens < 1:
            raise bad("Tokenizer", f"max_tokens={max_tokens}", "at least 1, the start token")
        self.max_tokens, self.words = max_tokens, tuple(words)
        self.vocab = VOCAB + len(self.words)
        self._ids = {f" {word}": VOCAB + k for k, word in enumerate(self.words)}
        identity = ("byte tokens", VOCAB, BOS, FIRST_BYTE, *self.words)
        self.hash = f"{stable_hash(*identity):016x}"

    def count(self, text: str) -> int:
        """Tokens of the uncut text, start token included."""
        if not self._ids:
            return 1 + len(text.encode())
        return 1 + sum(len(ids) for ids in self._pieces(text))

    def encode(self, text: str) -> np.ndarray:
        """int32 tokens, the start token first; a longer text is cut between two characters.

        The caller counts cuts by comparing `count` with max_tokens.
        """
        tokens = [BOS]
        for ids in self._pieces(text):
            if len(tokens) + len(ids) > self.max_tokens:
                break
            tokens += ids
        return np.array(tokens, np.int32)

    def spelled(self, text: str) -> tuple[str, ...]:
        """The words of a text that are read letter by letter, each once; none where there is no
        vocabulary."""
        if not self._ids:
            return ()
        words = (_PARTS.findall(piece) if f" {piece.strip()}" not in self._ids else ()
                 for piece in _PIECES.findall(text))  # fmt: skip
        parts = (part.strip() for found in words for part in found)
        return tuple(dict.fromkeys(p for p in parts if p.isalpha() and f" {p}" not in self._ids))

    def decode(self, tokens: np.ndarray) -> str:
        """The text of tokens; padding and start tokens are dropped."""
        raw = b""
        for k, token in enumerate(t for t in np.asarray(tokens).tolist() if t >= FIRST_BYTE):
            if token < VOCAB:
                raw += bytes([token - FIRST_BYTE])
            else:
                raw += b" " * bool(k) + self.words[token - VOCAB].encode()
        return raw.decode(errors="replace")

    def _pieces(self, text: str) -> Iterable[list[int]]:
        """The tokens of each word or character, which are never torn apart."""
        if not self._ids:
            for sign in text:
                yield [byte + FIRST_BYTE for byte in sign.encode()]
            return
        # A text that starts with a word is read as if a space stood before it.
        for k, piece in enumerate(_PIECES.findall(text)):
            spaced = f" {piece}" if k == 0 else piece
            if spaced in self._ids:
                yield [self._ids[spaced]]
            else:
                yield from self._parts(piece, k == 0)

    def _parts(self, piece: str, first: bool) -> Iterable[list[int]]:
        """The tokens of what is no known word: of the known words in it, else of its characters."""
        for k, part in enumerate(_PARTS.findall(piece)):
            spaced = f" {part}" if first and k == 0 else part
            if spaced in self._ids:
                yield [self._ids[spaced]]
            else:
                for sign in part:
                    yield [byte + FIRST_BYTE for byte in sign.encode()]
