"""Changes of bytes and of JSON by chance: what a failing disk, a bad editor or an attacker makes of a file."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

TOKENS = (
    *(b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n", b"\r\n", b'"', b"'", b",", b"\t", b";", b"\x1b[2J", b"\x7f"),
    *(b"NaN", b"-Infinity", b"1e999", b"-1", b"9" * 5000, b"18446744073709551616", b"null", b"true", b'""', b"{}"),
    *(b"[" * 100_000, b'{"a":' * 50_000, b"\\ud800", b'"\\ud800"', b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\\u0000"),
    *(
        b"../../../etc/passwd",
        b"/dev/zero",
        b"train",
        b"test",
        b"val",
        b"=1+1",
        b"%s%n",
        b"\xe2\x80\xae",
        b"a" * 70_000,
    ),
)
ODD = (
    *(
        None,
        True,
        -1,
        0,
        1,
        2**31,
        2**63,
        2**64,
        -(2**70),
        1e308,
        0.5,
        float("nan"),
        float("inf"),
        "",
        "0",
        "a",
        "\x1b[31m",
    ),
    *("\ud800", "\x00", "x" * 100_000, [], {}, [[]], [None], {"": None}, [0] * 10_000, ["a", 1, None], {"name": {}}),
    *("../../x", "sha256", "fp32", "cpu", "test", 10**400),
)


def mutate(rng: random.Random, content: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Some bytes of a file changed, between one and six times."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        content = rng.choice(BYTES)(rng, content, rng.choice(others) if others else content)
    return content


def flip(rng: random.Random, content: bytes, other: bytes = b"") -> bytes:
    """One bit turned."""
    changed = bytearray(content)
    if changed:
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def zero(rng: random.Random, content: bytes, other: bytes = b"") -> bytes:
    """A block of zeros, as of a sector that was never written."""
    start, end = _block(rng, content)
    return content[:start] + bytes(end - start) + content[end:]


def overwrite(rng: random.Random, content: bytes, other: bytes = b"") -> bytes:
    """A block of noise."""
    start, end = _block(rng, content)
    return content[:start] + rng.randbytes(end - start) + content[end:]


def truncate(rng: random.Random, content: bytes, other: bytes = b"") -> bytes:
    """The end gone."""
    return content[: rng.randrange(len(content) + 1)]


def double(rng: random.Random, content: bytes, other: bytes = b"") -> bytes:
    """All of it twice."""
    return content + content


def cut(rng: random.Random, content: bytes, other: bytes = b"") -> bytes:
    """A piece of the middle gone."""
    start, end = _block(rng, content)
    return content[:start] + content[end:]


def repeat(rng: random.Random, content: bytes, other: bytes = b"") -> bytes:
    """A piece again."""
    start, end = _block(rng, content)
    return content[:end] + content[start:end] + content[end:]


def insert(rng: random.Random, content: bytes, other: bytes = b"") -> bytes:
    """Something put in that readers trip over."""
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.choice(TOKENS) + content[at + rng.choice((0, 0, 1, 4)) :]


def splice(rng: random.Random, content: bytes, other: bytes = b"") -> bytes:
    """The beginning of one file and the end of another."""
    return content[: rng.randrange(len(content) + 1)] + other[rng.randrange(len(other) + 1) :]


BYTES: tuple[Callable[[random.Random, bytes, bytes], bytes], ...] = (
    *(flip, flip, flip, zero, overwrite, truncate, double, cut, repeat, insert, insert, insert, splice),
)
DAMAGES = {"bit": flip, "zeros": zero, "noise": overwrite, "truncated": truncate, "doubled": double, "cut": cut}


def mutate_json(rng: random.Random, value: Any) -> Any:
    """JSON in which one to three places hold something else, are missing, or have another name."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = _changed(rng, value)
    return value


def _changed(rng: random.Random, value: Any) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(sorted(value))
        rest = {name: inner for name, inner in value.items() if name != key}
        fate = rng.random()
        if fate < 0.1:
            return rest
        return {**rest, (key + "x" if fate < 0.15 else key): _changed(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        return [*value[:at], _changed(rng, value[at]), *value[at + 1 :]]
    return rng.choice(ODD)


def _block(rng: random.Random, content: bytes) -> tuple[int, int]:
    start = rng.randrange(len(content) + 1)
    return start, min(len(content), start + rng.choice((1, 4, 16, 64, 512, 4096)))
