"""Named random streams on the host (numpy): functions of (seed, names, ids) alone."""

import hashlib

import numpy as np

_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def stable_hash(*parts: object) -> int:
    """A 64-bit hash of strings, numbers and bytes that is equal on every machine and run."""
    h = hashlib.blake2b(digest_size=8)
    for part in parts:
        raw = part if isinstance(part, bytes) else repr(_plain(part)).encode()
        h.update(len(raw).to_bytes(8, "little"))
        h.update(raw)
    return int.from_bytes(h.digest(), "little")


def generator(seed: int, *names: object) -> np.random.Generator:
    """An independent numpy generator for the stream called `names` under `seed`."""
    return np.random.Generator(np.random.Philox(key=stable_hash(int(seed), *names)))


def hash_u64(seed: int, name: str, ids: np.ndarray) -> np.ndarray:
    """Vectorised 64-bit hash of integer ids under (seed, name); splitmix64 finaliser twice.

    ids      integers of any shape
    Returns  uint64 of the same shape
    """
    z = np.asarray(ids).astype(np.uint64) + np.uint64(stable_hash(int(seed), name))
    for _ in range(2):
        z = z + _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * _M1
        z = (z ^ (z >> np.uint64(27))) * _M2
        z = z ^ (z >> np.uint64(31))
    return z


def hash_uniform(seed: int, name: str, ids: np.ndarray) -> np.ndarray:
    """float64 in [0, 1), one for each id, keyed by (seed, name, id)."""
    return (hash_u64(seed, name, ids) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def hash_normal(seed: int, name: str, ids: np.ndarray) -> np.ndarray:
    """float64 standard normal, one for each id, keyed by (seed, name, id); Box and Muller's map."""
    radius = np.sqrt(-2.0 * np.log1p(-hash_uniform(seed, name + "/radius", ids)))
    return radius * np.cos(2.0 * np.pi * hash_uniform(seed, name + "/angle", ids))


def clip_key(clip_id: str, piece: int, occurrence: int) -> int:
    """The uint32 that keys the randomness of a piece of a clip; never 0 (an empty slot)."""
    return stable_hash("clip", clip_id, int(piece), int(occurrence)) % 0xFFFFFFFF + 1


def _plain(part: object) -> object:
    return part.item() if isinstance(part, np.generic) else part
