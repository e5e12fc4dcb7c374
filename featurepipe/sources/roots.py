"""What data sets are called: paths, patterns of several paths, and URLs."""

from __future__ import annotations

import glob
import os
import re

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
REMOTE = re.compile(r"hf:|[A-Za-z][A-Za-z0-9+.-]+:/")  # with one slash, too, as `Path` writes a URL
BRACES = re.compile(r"\{([^{}]*)\}")
NUMBERS = re.compile(r"(\d+)\.\.(\d+)")
SPECIAL = re.compile(r"[{*?\[]")
MOST = 1_000_000  # paths that one pattern may name
_ENDINGS = re.compile(r"(\.(tar|tgz|tbz2|txz|gz|bz2|xz|zip|parquet|arrow|csv|tsv|jsonl|ndjson))+$", re.IGNORECASE)


def is_url(text: str) -> bool:
    """Whether a text is a URL, such as ``s3://bucket/photos``.

    Examples
    --------
    >>> is_url("https://example.org/a.zip"), is_url("photos/a.zip")
    (True, False)
    """
    return URL.match(text) is not None


def expand(pattern: str) -> list[str]:
    """The paths that a pattern names, in its order: braces as in a shell, then ``*``, ``?`` and ``[…]`` as files lie.

    A path that exists is itself, whatever characters it has. In a URL only braces count.

    Raises
    ------
    ValueError
        The braces name more than a million paths.

    Examples
    --------
    >>> expand("shards-{008..010}.tar")
    ['shards-008.tar', 'shards-009.tar', 'shards-010.tar']
    >>> expand("{train,val}/a.tar")
    ['train/a.tar', 'val/a.tar']
    """
    if is_url(pattern):
        return _unbraced(pattern)
    if os.path.exists(pattern):
        return [pattern]
    found: list[str] = []
    for path in _unbraced(pattern):
        found += sorted(glob.glob(path)) if glob.has_magic(path) else [path]
    return list(dict.fromkeys(found))


def _unbraced(pattern: str) -> list[str]:
    done, left = [], [pattern]
    while left:
        text = left.pop()
        braces = BRACES.search(text)
        if braces is None:
            done.append(text)
            continue
        inside = _choices(braces[1])
        if len(inside) + len(left) + len(done) > MOST:
            raise ValueError(f"{pattern} names more than a million files")
        left += [text[: braces.start()] + one + text[braces.end() :] for one in reversed(inside)]
    return done


def _choices(inside: str) -> list[str]:
    """What stands between braces, one by one: ``a,b`` or ``008..010``."""
    numbers = NUMBERS.fullmatch(inside)
    if numbers is None:
        return inside.split(",")
    first, last = map(int, numbers.groups())
    if last - first >= MOST:
        raise ValueError(f"{{{inside}}} names more than a million files")
    width = len(numbers[1]) if numbers[1].startswith("0") else 0
    return [f"{number:0{width}}" for number in range(first, last + 1)]


def base_of(pattern: str) -> str:
    """The folder that all paths of a pattern lie in: what comes before the first special character.

    Examples
    --------
    >>> base_of("/data/{train,val}/x-*.tar"), base_of("/data/x.tar")
    ('/data', '/data')
    """
    special = None if os.path.exists(pattern) else SPECIAL.search(pattern)
    return os.path.dirname(pattern if special is None else pattern[: special.start()])


def is_there(root: str) -> bool:
    """Whether the path of a root exists, or any path of its pattern; of what is not a path nobody is asked."""
    if os.path.exists(root) or REMOTE.match(root):
        return True
    try:
        return any(map(os.path.exists, expand(root)))
    except ValueError:
        return False


def title(data: str | os.PathLike[str]) -> str:
    """What a data set is called for short: the last part of its path, without endings and patterns.

    Examples
    --------
    >>> title("a/photos.tar.gz"), title("shards-{000..127}.tar"), title("s3://bucket/a.zip"), title("hf:me/birds:test")
    ('photos', 'shards', 'a', 'birds')
    """
    text = os.fspath(data)
    if text.startswith("hf:"):
        text = text.split(":")[1]
    elif is_url(text):
        text = text.split("://", 1)[1].split("?", 1)[0].rstrip("/")
    else:
        text = os.path.realpath(text)
    if os.path.isdir(text):
        return os.path.basename(text)
    name = _ENDINGS.sub("", os.path.basename(text))
    plain = SPECIAL.split(name, maxsplit=1)[0].rstrip("-_. ")
    return plain or SPECIAL.split(os.path.basename(base_of(text)))[0] or "data"
