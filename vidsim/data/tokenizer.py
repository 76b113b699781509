"""Text to byte tokens. No vocabulary file, every language, nothing to download."""

import unicodedata

import numpy as np

from vidsim.core.errors import bad
from vidsim.core.host_random import stable_hash

PAD, BOS, FIRST_BYTE = 0, 1, 2
VOCAB = 256 + FIRST_BYTE


def clean(text: str) -> str:
    """NFC form, control characters to spaces, white space collapsed."""
    plain = unicodedata.normalize("NFC", text)
    return " ".join("".join(c if c.isprintable() else " " for c in plain).split())


class ByteTokenizer:
    """UTF-8 bytes behind a start token: 0 pads, 1 starts, byte b is b + 2.

    max_tokens  longest result of `encode`, start token included
    hash        identity of the scheme; the same for every max_tokens, so that counts in an index
                hold whatever the length of a row of text
    """

    vocab = VOCAB

    def __init__(self, max_tokens: int) -> None:
        if max_tokens < 1:
            raise bad("ByteTokenizer", f"max_tokens={max_tokens}", "at least 1, the start token")
        self.max_tokens = max_tokens
        self.hash = f"{stable_hash('byte tokens', VOCAB, BOS, FIRST_BYTE):016x}"

    @staticmethod
    def count(text: str) -> int:
        """Tokens of the uncut text, start token included."""
        return 1 + len(text.encode())

    def encode(self, text: str) -> np.ndarray:
        """int32 tokens, the start token first; a longer text is cut between two characters.

        The caller counts cuts by comparing `count` with max_tokens.
        """
        raw = text.encode()
        if len(raw) >= self.max_tokens:
            raw = raw[: self.max_tokens - 1].decode(errors="ignore").encode()
        tokens = np.empty(1 + len(raw), np.int32)
        tokens[0] = BOS
        tokens[1:] = np.frombuffer(raw, np.uint8).astype(np.int32) + FIRST_BYTE
        return tokens

    def decode(self, tokens: np.ndarray) -> str:
        """The text of tokens; padding and start tokens are dropped."""
        ids = np.asarray(tokens)
        raw = (ids[ids >= FIRST_BYTE] - FIRST_BYTE).astype(np.uint8).tobytes()
        return raw.decode(errors="replace")
