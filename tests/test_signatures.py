"""Keywords that come from classes of options: what callers see, what functions get, and what is refused."""

import inspect
from dataclasses import dataclass, field

import pytest

from featurepipe.signatures import document, documented, spread
from featurepipe.vocabulary import option


@dataclass(frozen=True)
class Taste:
    sugar: int = option(0, "Lumps.")
    milk: bool = option(False, "Whether there is some.")


@dataclass(frozen=True)
class Cup:
    size: str | None = option(None, "What it holds.")
    milk: bool = option(False, "Room for it.")


@spread(taste=Taste, cup=Cup)
def tea(kind, cups=1, *, taste: Taste, hot=True, cup: Cup):
    """Make tea.

    Parameters
    ----------
    kind : str
    taste
    hot : bool
    cup
    """
    return kind, cups, taste, hot, cup


def test_the_signature_has_every_field_with_its_default_and_none_twice():
    shown = {name: one.default for name, one in inspect.signature(tea).parameters.items()}
    empty = inspect.Parameter.empty
    assert shown == {"kind": empty, "cups": 1, "sugar": 0, "milk": False, "hot": True, "size": None}


def test_fields_arrive_as_values_and_a_shared_one_in_each():
    assert tea("green", 2, milk=True, size="big", hot=False) == ("green", 2, Taste(0, True), False, Cup("big", True))


def test_the_docstring_describes_each_field_once_where_its_class_is_named():
    said = inspect.cleandoc(tea.__doc__).split("----------\n")[1]
    assert said == (
        "kind : str\nsugar : int\n    Lumps.\nmilk : bool\n    Whether there is some.\nhot : bool\n"
        "size : str, optional\n    What it holds."
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"suger": 1}, r"tea\(\) has no parameter 'suger'; did you mean 'sugar'\?"),
        ({"quux": 1}, r"tea\(\) has no parameter 'quux'; help\(tea\) lists what it takes"),
        ({"taste": Taste()}, r"tea\(\) has no parameter 'taste'"),
    ],
)
def test_an_unknown_keyword_is_a_type_error_that_names_the_nearest(given, says):
    with pytest.raises(TypeError, match=says):
        tea("green", **given)


def test_a_positional_argument_that_is_missing_is_a_type_error():
    with pytest.raises(TypeError, match="kind"):
        tea(sugar=1)


def test_open_options_are_those_that_were_given_and_no_others():
    @spread(taste=Taste, options=Cup)
    def serve(*, taste: Taste, **options):
        return taste, options

    assert serve(sugar=2) == (Taste(2), {})
    assert serve(milk=False, size=None) == (Taste(), {"milk": False, "size": None})
    assert list(inspect.signature(serve).parameters) == ["sugar", "milk", "size"]
    with pytest.raises(TypeError, match="has no parameter 'sise'; did you mean 'size'"):
        serve(sise=1)


def test_a_keyword_with_two_defaults_is_refused_where_it_is_written():
    @dataclass
    class Sweet:
        sugar: int = option(3, "Lumps.")

    with pytest.raises(TypeError, match="sugar has two defaults, 0 and 3"):

        @spread(taste=Taste, sweet=Sweet)
        def both(*, taste, sweet): ...


def test_a_field_without_a_default_has_to_be_given():
    @dataclass
    class Water:
        litres: float = field(metadata={"doc": "How much."})

    @spread(water=Water)
    def boil(*, water):
        return water.litres

    assert boil(litres=1.5) == 1.5
    with pytest.raises(TypeError, match="litres"):
        boil()


def test_classes_have_their_fields_described_too_and_long_lines_are_wrapped():
    @dataclass
    class Long:
        many: tuple[str, ...] = option((), "word " * 60)

    @documented(fields=Long)
    class Shown:
        """What is shown.

        Parameters
        ----------
        fields
        """

    lines = Shown.__doc__.splitlines()
    assert max(map(len, lines)) <= 120
    assert sum(line.count("word") for line in lines) == 60


def test_without_docstrings_nothing_is_described():
    assert document(None, {"taste": Taste}) is None
