"""Registries: what was entered is found by its name with its settings; what was not, by its nearest."""

from dataclasses import dataclass, field

import pytest

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.registry import NEEDED, Registry


def planted():
    """Three things, their settings declared in each of the ways that there are."""
    things = Registry("thing", given=("env",), cure="register yours")

    @things.register("function")
    def function(env, size=3, *, speed: float, **others):
        return size, speed

    @things.register("class")
    class Class:
        def __init__(self, env, hidden_size=64):
            self.hidden_size = hidden_size

    @dataclass(frozen=True)
    class Told:
        layers: int
        rate: float = 0.5
        names: list = field(default_factory=lambda: ["a"])

    things.register("told", settings=Told)(print)
    return things, function, Class


def test_it_is_a_mapping_from_names_to_what_was_entered():
    things, function, Class = planted()
    assert dict(things) == {"function": function, "class": Class, "told": print}
    assert list(things) == ["function", "class", "told"] and len(things) == 3
    assert "told" in things and "print" not in things
    assert things.get("told") is print and things.get("print", 7) == 7
    assert not Registry("other")  # each has things of its own


def test_settings_are_what_is_said_else_the_defaults_declared_once():
    things, _, Class = planted()
    assert things.settings("function") == {"size": 3, "speed": NEEDED}
    assert things.settings("class", {"hidden_size": 8}) == {"hidden_size": 8}
    assert things.settings("told", {"layers": 2}) == {"layers": 2, "rate": 0.5, "names": ["a"]}
    assert things["class"](None, **things.settings("class")).hidden_size == 64


def test_what_a_caller_does_to_settings_stays_with_the_caller():
    things, _, _ = planted()
    said = {"layers": 1}
    things.settings("told", said)["names"].append("b")
    assert said == {"layers": 1} and things.settings("told")["names"] == ["a"]


@pytest.mark.parametrize(
    "name, says",
    [
        ("functoin", "unknown thing 'functoin': did you mean function? (register yours)"),
        ("zzzzzz", "unknown thing 'zzzzzz': expected one of class, function, told (register yours)"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name, says):
    things, _, _ = planted()
    for ask in (things.__getitem__, things.settings):
        with pytest.raises(UserError) as refused:
            ask(name)
        assert str(refused.value) == says


@pytest.mark.parametrize(
    "name, key, cure",
    [
        ("class", "hiden-size", "did you mean hidden_size?"),
        ("class", "env", "expected one of hidden_size"),  # its caller gives it
        ("function", "others", "expected one of size, speed"),  # that would swallow anything
        ("told", "larers", "did you mean layers?"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest(name, key, cure):
    things, _, _ = planted()
    with pytest.raises(UserError) as refused:
        things.settings(name, {key: 1})
    assert str(refused.value) == f"the thing {name} has no setting {key!r}: {cure}"


def test_a_name_is_entered_once():
    things, _, Class = planted()
    for thing in (print, Class):
        with pytest.raises(UserError, match="the thing 'class' is registered already: choose another"):
            things.register("class")(thing)
    assert things["class"] is Class
