"""A part of a card: one object of its JSON as a frozen dataclass, and as the mapping that the file holds.

The annotation of an attribute says both its type and the shape that its value must have in a file. `Text`, `Count` and
their like are the plain types together with a `featurepipe.jsons.Type`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from types import NoneType
from typing import Annotated, Any, Self, TypeVar, get_args, get_origin, get_type_hints

from featurepipe import jsons

Value = TypeVar("Value")
Text = Annotated[str, jsons.TEXT]
Flag = Annotated[bool, jsons.FLAG]
Count = Annotated[int, jsons.COUNT]
Number = Annotated[float, jsons.NUMBER]
Share = Annotated[float, jsons.SHARE]
Anything = Annotated[Any, jsons.ANYTHING]
# null is in order where the key is there at all, but nobody who reads the attribute could go on with it
Figure = Annotated[float, (jsons.SHARE, None)]
Loss = Annotated[float, (jsons.NUMBER, None)]
_KEY = "a key that may be missing, but is not null where it is there"
Absent = Annotated[Value | None, _KEY]


class _Unsaid:
    """What an attribute is set to for a moment, until it is taken away again."""


def unsaid() -> Any:
    """The default of an attribute that a file may lack, and without which its readers cannot go on.

    Then the attribute is not there: to read it is an AttributeError.
    """
    return field(default_factory=_Unsaid)


@dataclass(frozen=True, kw_only=True, eq=False)
class Part(Mapping[str, Any]):
    """An object of a card's JSON.

    Attributes are for the package. As a mapping a part is its JSON: the keys that were given to it, in that order, and
    no default. So each writer decides which keys its files have, and what was read is written again as it was. To
    change a part, change its JSON (`to_json`, then `of_json`); `dataclasses.replace` would say all keys.

    Examples
    --------
    >>> @dataclass(frozen=True, kw_only=True, eq=False)
    ... class Size(Part):
    ...     n: Count
    ...     of: Text | None = None
    >>> Size(n=3).of, dict(Size(n=3)), dict(Size(of=None, n=3))
    (None, {'n': 3}, {'of': None, 'n': 3})
    >>> Size.of_json({"n": 3, "later": [1]})["later"]
    [1]
    """

    def __new__(cls, **said: Any) -> Self:
        """Note which keys are given, and in which order: the dataclass itself forgets both."""
        made = super().__new__(cls)
        made.__dict__["_said"] = said
        return made

    def __post_init__(self) -> None:
        for name in [name for name, value in self.__dict__.items() if isinstance(value, _Unsaid)]:
            del self.__dict__[name]

    @classmethod
    def of_json(cls, said: Mapping[str, Any]) -> Self:
        """A part of JSON that has the right shape."""
        hints = _hints(cls)
        made = cls(**{key: _typed(hints[key], value) for key, value in said.items() if key in hints})
        made.__dict__["_said"] = dict(said)
        return made

    @classmethod
    def shape(cls) -> dict[str, Any]:
        """What its JSON must look like, for `featurepipe.jsons.check`."""
        hints = _hints(cls)
        return {f"{one.name}{'' if _is_required(one) else '?'}": _shape(hints[one.name]) for one in fields(cls)}

    def to_json(self) -> dict[str, Any]:
        """Its JSON, as nobody else's."""
        return {key: _plain(value) for key, value in self.__dict__["_said"].items()}

    def __getitem__(self, key: str) -> Any:
        return _plain(self.__dict__["_said"][key])

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__["_said"])

    def __len__(self) -> int:
        return len(self.__dict__["_said"])


def _is_required(one: Any) -> bool:
    return one.default is MISSING and one.default_factory is MISSING


@cache
def _hints(part: type[Part]) -> dict[str, Any]:
    return get_type_hints(part, include_extras=True)


def _plain(value: Any) -> Any:
    """Parts inside a value as plain objects."""
    if isinstance(value, Part):
        return value.to_json()
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _shape(hint: Any) -> Any:
    """The shape of an annotation."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind is Annotated:
        return _shape(inner[0])[0] if inner[1] is _KEY else inner[1]
    if kind is list:
        return [_shape(inner[0])]
    if kind is dict:
        return jsons.Each(_shape(inner[1]))
    if inner:  # alternatives
        return tuple(None if one is NoneType else _shape(one) for one in inner)
    return hint.shape()


def _typed(hint: Any, value: Any) -> Any:
    """A value of JSON as its annotation has it: parts where there are parts."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind is Annotated:
        return _typed(inner[0], value)
    if kind is list:
        return [_typed(inner[0], one) for one in value]
    if kind is dict:
        return {key: _typed(inner[1], one) for key, one in value.items()}
    if inner:
        others = [one for one in inner if one is not NoneType]
        return value if value is None or len(others) > 1 else _typed(others[0], value)
    return hint.of_json(value) if isinstance(hint, type) and issubclass(hint, Part) else value
