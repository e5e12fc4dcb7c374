"""Texts of strangers, such as names of files and classes, made safe where they are shown.

A terminal obeys what is not meant for it: a name can clear the screen, set the window's title, or turn the line around.
A spreadsheet takes a cell that begins with an equals sign for a formula. Files that programs read keep texts as they
are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

STEERING = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # control characters: the beginning of every escape sequence, and what moves the cursor
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that turn the direction of writing
    "\u200b\u2028\u2029\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # invisible ones, and breaks
    "\ud800-\udfff"  # halves of characters: bytes of file names that are not UTF-8
    "]"
)
BREAK = "\n"
FORMULA = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")  # https://owasp.org/www-community/attacks/CSV_Injection
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def shown(text: str, *, lines: bool = False) -> str:
    r"""A text in which every character that steers a terminal or a page is written out, such as ``\x1b`` for ESC.

    Parameters
    ----------
    text : str
    lines : bool
        Keep line breaks.

    Examples
    --------
    >>> shown("\x1b[2Jant\u202egpj.exe")
    '\\x1b[2Jant\\u202egpj.exe'
    """
    if text.isprintable():
        return text
    return STEERING.sub(lambda found: found[0] if lines and found[0] == BREAK else _written(found[0]), text)


def shown_all(value: Any) -> Any:
    """The same of all texts in a JSON value, keys included."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, Mapping):
        return {shown_all(key): shown_all(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [shown_all(item) for item in value]
    return value


def _written(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def safe_cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: an apostrophe comes first where it could; numbers stay.

    Examples
    --------
    >>> safe_cell("=1+1"), safe_cell("-1.5"), safe_cell(-1.5), safe_cell("a=b")
    ("'=1+1", '-1.5', -1.5, 'a=b')
    """
    if isinstance(value, str) and FORMULA.match(value) and not NUMBER.fullmatch(value):
        return f"'{value}"
    return value
