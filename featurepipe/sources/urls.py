"""Files at URLs: read with bounded patience, and with errors that say why one cannot be had.

``http`` and ``https`` are read by Python itself, all other schemes by fsspec and what it needs for them.
"""

from __future__ import annotations

import email.utils
import errno
import http.client
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar

from featurepipe import inputs
from featurepipe.errors import DependencyMissing
from featurepipe.sources.patience import Patience, pause
from featurepipe.sources.source import Stamp

SECONDS = 30.0  # without an answer
WAITS = (0.5, 2.0, 8.0)  # seconds before each further try
LEAST = 1024  # bytes per second that an answer has to give, or it counts as none
BUSY = frozenset({429, 503})  # answers of a server that is there, and asks for patience
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})  # answers that may be others next time
DENIED = frozenset({401, 403, 407})
MISSING = frozenset({404, 410})
PIECE = 2**20
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs", "sftp": "paramiko"}
LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
LOCAL = ("file://", "local://")  # of files of this machine, which may be anything
PLAIN = "".join(map(chr, range(0x21, 0x7F)))  # the characters that a URL may have as they are
AGENT = {"User-Agent": "featurepipe"}
Found = TypeVar("Found")


class Answer(NamedTuple):
    """What a URL begins to give: how many bytes it says there are, its stamp, and its content piece by piece."""

    size: int
    stamp: Stamp | None
    pieces: Iterator[bytes]


class _Slow(TimeoutError):
    """An answer that comes, but would take for ever."""


NUMBERS = {
    FileNotFoundError: errno.ENOENT,
    IsADirectoryError: errno.EISDIR,
    NotADirectoryError: errno.ENOTDIR,
    http.client.IncompleteRead: errno.ETIMEDOUT,
    _Slow: errno.ETIMEDOUT,
}
PATIENT = Patience()


def is_web(url: str) -> bool:
    """Whether Python itself reads a URL."""
    return url.lower().startswith(("http://", "https://"))


def fetch(url: str, most: int = inputs.IMAGE_BYTES) -> tuple[bytes, Stamp | None]:
    """All that a URL gives, and what it is known by.

    Raises
    ------
    OSError
        It is not there, may not be read, is a web page, is larger than `most`, or does not come within some tries.
    DependencyMissing
        fsspec, or what it needs for this scheme, is not installed.
    """

    def read(answer: Answer) -> tuple[bytes, Stamp | None]:
        parts, length = [], 0
        for part in answer.pieces:
            parts.append(part)
            length += len(part)
            if length > most:
                raise OSError(errno.EFBIG, f"it is larger than {most / 2**30:.3g} GiB, the most that is read", url)
        data = b"".join(parts)
        if answer.size and len(data) != answer.size and is_web(url):
            raise http.client.IncompleteRead(data, answer.size - len(data))
        return data, answer.stamp

    return tried(url, lambda: _opened(url, read))


def download(url: str, file: Any) -> None:
    """Write all that a URL gives into an open file; raises as `fetch` does."""

    def copy(answer: Answer) -> None:
        file.seek(0)
        file.truncate()
        for part in answer.pieces:
            file.write(part)
        if answer.size and file.tell() != answer.size and is_web(url):
            raise http.client.IncompleteRead(b"", answer.size - file.tell())

    tried(url, lambda: _opened(url, copy))


def stamp_of(url: str) -> Stamp | None:
    """What an unchanged file at a URL is known by, without reading it; None where the server does not say."""

    def ask() -> Stamp | None:
        if not is_web(url):
            fs, path = filesystem(url)
            return _stamp_of_info(fs.info(path))
        try:
            with _urlopen(url, "HEAD") as reply:
                return None if _is_page(url, reply) else _stamp_of_headers(reply.headers)
        except urllib.error.HTTPError as error:
            if error.code in (403, 405, 501):  # signed URLs are often for reading alone
                return None
            raise

    return tried(url, ask, "HEAD")


def filesystem(url: str) -> tuple[Any, str]:
    """Fsspec's file system of a URL, and the path in it.

    Raises
    ------
    DependencyMissing
        fsspec, or what it needs for this scheme, is not installed.
    OSError
        The scheme is unknown, or the file system cannot be opened.
    """
    scheme = url.partition("://")[0]
    try:
        import fsspec
    except ImportError as error:
        raise DependencyMissing(f"{scheme}:// needs fsspec: pip install 'featurepipe[remote]'") from error
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = PACKAGES.get(scheme, "another package")
        raise DependencyMissing(f"{scheme}:// needs {package}: pip install {package} ({error})") from error
    except ValueError as error:
        raise OSError(errno.EINVAL, f"the scheme {scheme}:// is not known ({error})", url) from error
    return fs, path


def _opened(url: str, use: Callable[[Answer], Found]) -> Found:
    """What a function makes of the answer of a URL, which is closed then."""
    if not is_web(url):
        fs, path = filesystem(url)
        info = fs.info(path)
        with inputs.opened(path) if url.lower().startswith(LOCAL) else fs.open(path, "rb") as file:
            return use(Answer(int(info.get("size") or 0), _stamp_of_info(info), _paced(file.read)))
    with _urlopen(url, "GET") as reply:
        pieces = _paced(reply.read1)  # which gives what is there
        first = next(pieces, b"")
        if _is_page(url, reply) and first.lstrip()[:1] == b"<":
            moved = f", to which it leads: {reply.url}" if reply.url != url else ""
            raise OSError(errno.EPROTO, f"it is a web page, not a file{moved}", url)  # often one for logging in
        size = int(reply.headers.get("Content-Length") or 0)
        return use(Answer(size, _stamp_of_headers(reply.headers), _chained(first, pieces)))


def _paced(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """What there is, piece by piece; `_Slow` where it comes so slowly that it would have no end."""
    begun, length = time.monotonic(), 0
    while piece := read(PIECE):
        yield piece
        length += len(piece)
        seconds = time.monotonic() - begun
        if seconds > SECONDS + length / LEAST:
            raise _Slow(f"it comes too slowly: {length:,} bytes in {seconds:.0f} seconds")


def _is_page(url: str, reply: Any) -> bool:
    """Whether the answer says that it is a web page, of a URL that is none."""
    return reply.headers.get_content_type() == "text/html" and not url.endswith((".html", ".htm"))


def _chained(first: bytes, others: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from others


def _urlopen(url: str, method: str) -> Any:
    request = urllib.request.Request(quoted(url), headers=AGENT, method=method)
    return urllib.request.urlopen(request, timeout=SECONDS)


def quoted(url: str) -> str:
    """A URL as servers take it; what it has of other characters, such as spaces, is escaped, and nothing else changes.

    Examples
    --------
    >>> quoted("https://example.org/a b/größe.jpg?key=a%20b")
    'https://example.org/a%20b/gr%C3%B6%C3%9Fe.jpg?key=a%20b'
    """
    scheme, host, rest = _split(url)
    host = host if host.isascii() else host.encode("idna").decode()
    return f"{scheme}://{host}{urllib.parse.quote(rest, safe=PLAIN, errors='surrogateescape')}"


def tried(url: str, ask: Callable[[], Found], method: str = "GET") -> Found:
    """What a function gives, after some tries; an OSError that says why it does not."""
    server = _server(url)
    is_probe = PATIENT.check(server, method, url)
    for number in range(len(WAITS) + 1):
        try:
            found = ask()
        except Exception as error:  # of urllib, of fsspec, of what that uses: nothing says which there may be
            why, lasting = _reason(error)
            if lasting is None:
                raise
            is_hopeless = is_probe or PATIENT.is_given_up(server, method)
            is_last = number == len(WAITS) or (is_hopeless and not _is_busy(error))  # who is busy is there, for a while
            is_stopped = not (lasting or is_last) and pause(WAITS[number])
            if lasting or is_last or is_stopped:
                if not is_stopped:  # who was not asked to the end says nothing of the server
                    PATIENT.note(server, method, came=lasting, is_probe=is_probe)  # who says no is there
                tries = f", after {number + 1} tries" if number else ""
                raise OSError(_errno(error), f"{why}{tries}", url) from error
        else:
            PATIENT.note(server, method, came=True)
            return found
    raise AssertionError  # the last try returns or raises


def _is_busy(error: Exception) -> bool:
    return isinstance(error, urllib.error.HTTPError) and error.code in BUSY


def _server(url: str) -> str:
    """A URL's scheme and host, without a name and a password."""
    scheme, host, _ = _split(url)
    return f"{scheme}://{host.rpartition('@')[2]}"


def _split(url: str) -> tuple[str, str, str]:
    """Scheme, host and the rest."""
    scheme, _, rest = url.partition("://")
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    return scheme, host, rest[len(host) :]


def _reason(error: Exception) -> tuple[str, bool | None]:
    """Why a try failed, and whether the next would fail too; None for what is not to be taken for the file's fault."""
    if isinstance(error, DependencyMissing | MemoryError):
        return "", None
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        denied = ": the credentials are missing, wrong or expired" if error.code in DENIED else ""
        return f"HTTP {error.code} {error.reason}{denied}", error.code not in AGAIN
    if isinstance(error, urllib.error.URLError):
        error = error.reason if isinstance(error.reason, Exception) else error
    if isinstance(error, TimeoutError):
        return str(error) if isinstance(error, _Slow) else f"no answer within {SECONDS:g} seconds", False
    if isinstance(error, ValueError | http.client.InvalidURL):  # of the URL itself, or of what is no certificate
        return " ".join(str(error).split()) or type(error).__name__, True
    if isinstance(error, PermissionError):
        return f"access is denied ({error}): the credentials are missing, wrong or expired", True
    if isinstance(error, OSError) and error.errno in (errno.EFBIG, errno.EINVAL, errno.ENOSPC, errno.EPROTO):
        return error.strerror or str(error), True
    why = (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())
    return why or type(error).__name__, isinstance(error, LASTING)


def _errno(error: Exception) -> int:
    """What an error says, also where it has no number: whether a file is gone is known by it."""
    if isinstance(error, urllib.error.HTTPError):
        return errno.ENOENT if error.code in MISSING else errno.EACCES if error.code in DENIED else errno.EIO
    kinds = (number for kind, number in NUMBERS.items() if isinstance(error, kind))
    number = getattr(error, "errno", None) or 0
    return number if number > 0 else next(kinds, errno.EIO)  # those of names that are not found are below 0


def _stamp_of_headers(headers: Any) -> Stamp | None:
    """Of the answer of a web server; None where it names neither a version nor a time."""
    tag, modified = headers.get("ETag"), headers.get("Last-Modified")
    try:
        when = email.utils.parsedate_to_datetime(modified).timestamp() if modified else 0.0
    except ValueError:
        when = 0.0
    return _stamp(int(headers.get("Content-Length") or 0), when, tag)


def _stamp_of_info(info: dict[str, Any]) -> Stamp | None:
    """Of what fsspec knows of a file; None where that is neither a version nor a time."""
    tag = next((info[key] for key in ("ETag", "etag", "md5Hash", "generation", "ino") if info.get(key)), None)
    times = ("LastModified", "last_modified", "updated", "mtime", "created")
    when = next((info[key] for key in times if info.get(key)), 0.0)
    if isinstance(when, str):
        try:
            when = datetime.fromisoformat(when)
        except ValueError:
            when = 0.0
    return _stamp(int(info.get("size") or 0), when.timestamp() if isinstance(when, datetime) else float(when), tag)


def _stamp(size: int, when: float, tag: object) -> Stamp | None:
    if not when and tag is None:
        return None
    if not 0 <= size < 2**63 or not abs(when) < 2**33:  # seconds; no server means that
        return None
    named = int.from_bytes(blake2b(str(tag).encode(), digest_size=8).digest(), "big") >> 1  # fits a signed column
    return Stamp(size, int(when * 1e9), 0, named)


def base_name(url: str) -> str:
    """The last part of a URL's path.

    Examples
    --------
    >>> base_name("https://example.org/a/photos.zip?raw=1")
    'photos.zip'
    """
    return os.path.basename(url.partition("://")[2].split("?", 1)[0].split("#", 1)[0])
