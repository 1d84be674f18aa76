"""Search spaces: what may be written down, what is said about the rest, and what a space compiles to."""

import copy
import dataclasses
import json
import math
import os
import pickle
import subprocess
import sys
from typing import Any

import pytest

from orchestrator.errors import SpaceError
from orchestrator.prior import Beta, Normal
from orchestrator.space import Choice, Fixed, Float, Int, Space

NOT_PLAIN = "neither null, a bool, a finite number nor text, nor a list or mapping of such; write text"

DATA: dict[str, Any] = {
    "lr": {"type": "float", "low": 1e-4, "high": 0.1, "log": True},
    "optimizer": {"type": "choice", "options": ["sgd", "adamw"]},
    "momentum": {"type": "float", "low": 0.0, "high": 0.99, "when": {"optimizer": "sgd"}},
}


@pytest.fixture
def space() -> Space:
    return Space(
        {
            "lr": Float(1e-4, 0.1, log=True),
            "optimizer": Choice(["sgd", "adamw"]),
            "momentum": Float(0, 0.99, when={"optimizer": "sgd"}),
        }
    )


@pytest.fixture
def finite() -> Space:
    """A chain: `nesterov` hangs on `momentum`, which hangs on `optimizer`."""
    return Space(
        {
            "optimizer": Choice(["sgd", "adamw"]),
            "momentum": Float(0, 0.9, step=0.3, when={"optimizer": "sgd"}),
            "nesterov": Choice([True, False], when={"momentum": [0.3, 0.9]}),
            "depth": Int(1, 5, step=2),
        }
    )


def problems(parameters: Any) -> list[str]:
    with pytest.raises(SpaceError) as caught:
        Space(parameters)
    return list(caught.value.problems)


def data_problems(data: Any) -> list[str]:
    with pytest.raises(SpaceError) as caught:
        Space.from_data(data)
    return list(caught.value.problems)


class TestParameters:
    def test_they_are_frozen(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            Float(0, 1).low = 0.5  # type: ignore[misc]

    @pytest.mark.parametrize("parameter", [Float, Int, Choice])
    def test_only_the_range_is_positional(self, parameter):
        with pytest.raises(TypeError, match="positional"):
            parameter(1, 2, True)

    def test_equal_ones_hash_alike(self):
        one = Float(0, 1, when={"a": "x", "b": [1, 2]})
        other = Float(0.0, 1.0, when={"b": (1, 2), "a": ["x"]})
        assert one == other
        assert hash(one) == hash(other)
        assert one != Float(0, 1, when={"a": "y", "b": [1, 2]})
        assert one != Float(0, 1)

    def test_no_conditions_are_written_in_one_way(self):
        assert Int(1, 2, when={}) == Int(1, 2, when=None) == Int(1, 2)

    def test_a_choice_keeps_its_own_options(self):
        options = ["a", "b"]
        choice = Choice(options)
        options.append("c")
        assert choice.options == ("a", "b")
        assert hash(choice) == hash(Choice(("a", "b")))

    @pytest.mark.parametrize(
        "parameter",
        [Float(0, 1, step=0.5, when={"a": "x"}), Int(1, 2, when={"a": [1, None]}), Choice(["a", True, None])],
    )
    def test_the_repr_reads_back(self, parameter):
        assert eval(repr(parameter)) == parameter

    @pytest.mark.parametrize(("given", "kept"), [(1, 1.0), ("1e-4", 1e-4), ("2", 2.0)])
    def test_a_float_takes_numbers_and_their_text(self, given, kept):
        parameter = Float(given, given, step=given)
        assert (parameter.low, parameter.high, parameter.step) == (kept, kept, kept)
        assert type(parameter.low) is float

    @pytest.mark.parametrize(("given", "kept"), [(8.0, 8), ("8", 8), ("1e3", 1000), (str(2**53 + 1), 2**53 + 1)])
    def test_an_int_takes_whole_numbers_and_their_text(self, given, kept):
        parameter = Int(given, given, step=given)
        assert (parameter.low, parameter.high, parameter.step) == (kept, kept, kept)
        assert type(parameter.low) is int

    def test_narrowing_one_keeps_its_conditions(self, space):
        narrowed = dataclasses.replace(space["momentum"], high=0.5)
        assert narrowed == Float(0, 0.5, when={"optimizer": "sgd"})


class TestRules:
    @pytest.mark.parametrize(
        ("parameter", "said"),
        [
            (Float(2, 1), "has low 2 above high 1; swap them"),
            (Int(2, 1), "has low 2 above high 1; swap them"),
            (Float(0, math.inf), "has high inf, which is not a finite number; write one such as 0.1"),
            (Float(math.nan, 1), "has low nan, which is not a finite number; write one such as 0.1"),
            (Float(0, 10**400), f"has high {10**400}, which is not a finite number; write one such as 0.1"),
            (Float(True, 1), "has low True, which is not a finite number; write one such as 0.1"),
            (Float("small", 1), "has low 'small', which is not a finite number; write one such as 0.1"),
            (Float(0, 1, step=True), "has step True, which is not a finite number; write one such as 0.1"),
            (Int(1.5, 2), "has low 1.5, which is not a whole number; write one such as 8"),
            (Int(1, "two"), "has high 'two', which is not a whole number; write one such as 8"),
            (Int(1, "inf"), "has high 'inf', which is not a whole number; write one such as 8"),
            (Int(1, 2, step=None), "has step None, which is not a whole number; write one such as 8"),
            (Int(1, 2, step=True), "has step True, which is not a whole number; write one such as 8"),
            (Float(1, 2, log="yes"), "has log 'yes', which is neither true nor false; write one of them"),
            (Float(0, 1, log=True), "is on a log scale, which needs a low above 0, not 0; raise low or drop log"),
            (Int(-1, 1, log=True), "is on a log scale, which needs a low above 0, not -1; raise low or drop log"),
            (Float(0, 1, step=0), "has step 0; give a step above 0, or leave it out"),
            (Int(0, 1, step=-2), "has step -2; give a step above 0, or leave it out"),
            (
                Float(1, 2, log=True, step=0.5),
                "is on a log scale, which takes no step, but has step 0.5; drop log or step",
            ),
            (Int(1, 9, log=True, step=2), "is on a log scale, which takes no step, but has step 2; drop log or step"),
            (Choice([]), "has no options; give at least one"),
            (Choice("sgd"), "has options 'sgd', which is not a list; write one such as [small, large]"),
            (Choice(3), "has options 3, which is not a list; write one such as [small, large]"),
            (Choice(["a", "b", "a"]), "has option 'a' more than once; drop one"),
            (Choice([1, True]), "has options 1 and True, which are equal to Optuna; drop one"),
            (Choice([False, 0.0]), "has options False and 0.0, which are equal to Optuna; drop one"),
            (Choice([{1}]), f"has option {{1}}, which is {NOT_PLAIN}"),
            (Choice([math.nan]), f"has option nan, which is {NOT_PLAIN}"),
            (Choice([["a", math.inf]]), f"has option ['a', inf], which is {NOT_PLAIN}"),
            (Choice([{1: "a"}]), f"has option {{1: 'a'}}, which is {NOT_PLAIN}"),
            (Choice([[1], [1.0]]), "has option [1.0] more than once; drop one"),
            (Choice([[1], "[1]"]), "has options [1] and '[1]', which are equal to Optuna; drop one"),
            (Choice([1, 2], default=3), "has default 3, which is not one of its options; available: 1, 2"),
            (Choice([1, 2], prior=[1]), "has prior [1.0]; give each of its 2 options a weight from 0, not all 0"),
            (
                Choice([1, 2], prior=[0, 0]),
                "has prior [0.0, 0.0]; give each of its 2 options a weight from 0, not all 0",
            ),
            (
                Choice([1, 2], prior=[2, -1]),
                "has prior [2.0, -1.0]; give each of its 2 options a weight from 0, not all 0",
            ),
            (Choice([1, 2], prior={3: 1}), "has prior {3: 1}; give each of its 2 options a weight from 0, not all 0"),
            (Fixed({1}), "has value {1}, which is no plain value; write null, a bool, a number, text or a list"),
            (Float(0, 1, default=2), "has default 2.0, which is not a finite number from 0 to 1"),
            (Int(1, 9, step=2, default=2), "has default 2, which is not a whole number from 1 to 9 in steps of 2"),
            (Int(1, 9, default=True), "has default True, which is not a whole number from 1 to 9"),
            (Float(0, 1, prior=Normal(2, 1)), "has a prior around 2, outside 0 to 1; move one of them"),
            (Float(0, 1, prior=Normal(0.5, 0)), "has a prior of spread 0; give a distance above 0"),
            (
                Float(1, 9, log=True, prior=Normal(2, 1)),
                "has a prior of spread 1; on a log scale the spread is a factor: give one above 1",
            ),
            (Float(0, 1, prior=Beta(0, 1)), "has a prior of alpha 0; give a number above 0"),
            (
                Float(0, 1, prior={"centre": "x", "spread": 1}),
                "has a prior of centre 'x', which is not a finite number; write one such as 0.1",
            ),
            (Int(0, 9, prior="log"), "has a prior on a log scale, which needs a low above 0, not 0; raise low"),
            (
                Float(0, 1, prior={"mean": 1}),
                "has prior {'mean': 1}; write {centre: 0.1, spread: 0.05}, {alpha: 2, beta: 5} or log",
            ),
            (Float(0, 1, when="sgd"), "has when 'sgd', which is not a mapping; write one such as {optimizer: sgd}"),
            (0.1, "is 0.1, which is not a parameter; make it a Float, an Int, a Choice or a Fixed"),
        ],
    )
    def test_a_parameter_that_breaks_one(self, parameter, said):
        assert problems({"x": parameter}) == [f"space: 'x' {said}"]

    @pytest.mark.parametrize(
        "parameter",
        [
            Float(1, 1),
            Float(-1, 1),
            Float(1e-9, 1, log=True),
            Float(0, 1, step=0.3),
            Int(1, 8, log=True),
            Int(1, 8, log=True, step=1),
            Int(0, 0),
            Choice([None, "None", 1, 0, 2.5, "1"]),
            Choice([True, False]),
            Choice(range(3)),
            Choice(["only"]),
            Choice([[64, 128], {"depth": 2}, None], default=None, prior=[1, 2, 1]),
            Choice(["a", "b"], prior={"b": 3, "a": 1}),
            Float(1e-5, 1, log=True, default=1e-3, prior=Normal(1e-3, 3)),
            Int(0, 8, step=2, default=4, prior={"alpha": 2, "beta": 5}),
            Int(8, 256, step=8, prior="log"),
            Fixed([1, {"a": None}]),
        ],
    )
    def test_a_parameter_that_keeps_them(self, parameter):
        assert Space({"x": parameter})["x"] == parameter

    @pytest.mark.parametrize("name", ["lr", "optimizer.lr", "_a.b_2.C"])
    def test_a_name_that_keeps_them(self, name):
        assert list(Space({name: Int(1, 2)})) == [name]

    @pytest.mark.parametrize(
        ("name", "such_as"),
        [
            *((name, "optimizer.lr") for name in ("", "a.", ".a", "a..b", "2a", 3, None)),
            *((name, "a_b") for name in ("a-b", "a b", "a/b")),
        ],
    )
    def test_a_name_that_breaks_them(self, name, such_as):
        assert problems({name: Int(1, 2)}) == [
            f"space: {name!r} is not a name; use letters, digits and _, with dots between, such as {such_as!r}"
        ]

    @pytest.mark.parametrize(
        ("when", "said"),
        [
            (
                {"optimiser": "sgd"},
                "'x' is active when 'optimiser' is 'sgd', but there is no parameter 'optimiser'; "
                "did you mean 'optimizer'?",
            ),
            (
                {"zzz": ["a", 1]},
                "'x' is active when 'zzz' is 'a' or 1, but there is no parameter 'zzz'; "
                "available: 'optimizer', 'depth', 'dropout'",
            ),
            (
                {"optimizer": ["sgd", "adamv"]},
                "'x' is active when 'optimizer' is 'adamv', which is not one of its options; did you mean 'adamw'?",
            ),
            ({"depth": 9}, "'x' is active when 'depth' is 9, which is not a whole number from 1 to 8"),
            ({"depth": True}, "'x' is active when 'depth' is True, which is not a whole number from 1 to 8"),
            (
                {"dropout": 0.25},
                "'x' is active when 'dropout' is 0.25, which is not a finite number from 0 to 0.5 in steps of 0.1",
            ),
            ({"optimizer": []}, "'x' is active for no value of 'optimizer'; name one, or drop the condition"),
            ({"x": 1.0}, "'x' is active only if it is active itself (x needs x); drop a condition"),
        ],
    )
    def test_a_condition_that_breaks_one(self, when, said):
        others = {"optimizer": Choice(["sgd", "adamw"]), "depth": Int(1, 8), "dropout": Float(0, 0.5, step=0.1)}
        assert problems({**others, "x": Float(0, 1, when=when)}) == [f"space: {said}"]

    def test_every_cycle_is_told_and_what_only_hangs_on_one_is_not(self):
        both = [True, False]
        assert problems(
            {
                "hanger": Choice(both, when={"a": True}),
                "a": Choice(both, when={"b": True}),
                "b": Choice(both, when={"c": True}),
                "c": Choice(both, when={"a": True, "free": True}),
                "d": Choice(both, when={"d": True}),
                "free": Choice(both),
            }
        ) == [
            "space: 'a' is active only if it is active itself (a needs b needs c needs a); drop a condition",
            "space: 'd' is active only if it is active itself (d needs d); drop a condition",
        ]

    def test_every_problem_is_told_at_once(self):
        said = problems(
            {
                "2x": Float(0, -1, step=-1),
                "y": Choice([], when={"2x": 7}),  # nothing is said of 7: what 2x can take is not known yet
                "z": Int(1, 2, when={"yy": 1}),
            }
        )
        assert [line.split(";")[0] for line in said] == [
            "space: '2x' is not a name",
            "space: '2x' has low 0 above high -1",
            "space: '2x' has step -1",
            "space: 'y' has no options",
            "space: 'z' is active when 'yy' is 1, but there is no parameter 'yy'",
        ]

    @pytest.mark.parametrize("build", [Space, Space.from_data])
    def test_a_space_is_a_mapping(self, build):
        with pytest.raises(SpaceError, match="a space maps names to parameters, and 3 is no mapping"):
            build(3)


class TestMapping:
    def test_it_is_one(self, space):
        assert dict(space) == space.parameters == space
        assert len(space) == 3
        assert "lr" in space
        assert space["optimizer"] == Choice(["sgd", "adamw"])
        with pytest.raises(KeyError):
            space["nothing"]

    def test_it_is_frozen(self, space):
        given = dict(space)
        kept = Space(given)
        given.pop("momentum")
        assert kept == space
        with pytest.raises(dataclasses.FrozenInstanceError):
            space.parameters = {}
        with pytest.raises(TypeError):
            space.parameters["x"] = Int(1, 2)

    def test_order_is_not_part_of_equality_hash_or_digest(self, space):
        other = Space(dict(reversed(list(space.items()))))
        assert list(other) != list(space)
        assert other == space
        assert hash(other) == hash(space)
        assert other.digest == space.digest

    @pytest.mark.parametrize("remake", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
    def test_it_survives_copying_and_pickling(self, space, remake):
        remade = remake(space)
        assert remade == space
        assert list(remade) == list(space)
        assert remade.digest == space.digest
        assert hash(remade) == hash(space)

    def test_the_repr_reads_back(self, space):
        assert eval(repr(space)) == space

    def test_parents_come_first_and_the_rest_stays_as_written(self):
        yes = Choice([True])
        written = {
            "z": yes,
            "grandchild": Choice([True], when={"child": True}),
            "y": yes,
            "child": Choice([True], when={"parent": True, "z": True}),
            "parent": yes,
            "a": yes,
        }
        assert list(Space(written)) == ["z", "y", "parent", "child", "grandchild", "a"]


class TestActive:
    @pytest.mark.parametrize(
        ("params", "active"),
        [
            ({"optimizer": "sgd"}, True),
            ({"optimizer": "adamw"}, False),
            ({}, False),
            ({"optimizer": "nonsense"}, False),
        ],
    )
    def test_one_condition(self, space, params, active):
        assert space.is_active("momentum", params) is active
        assert space.is_active("lr", params)

    @pytest.mark.parametrize(
        ("momentum", "active"), [(0.3, True), (0.1 * 3, True), (0.9, True), (0.6, False), ("0.3", False), (None, False)]
    )
    def test_any_of_several_values_up_to_rounding(self, finite, momentum, active):
        assert finite.is_active("nesterov", {"optimizer": "sgd", "momentum": momentum}) is active

    def test_a_parent_must_be_active_itself(self, finite):
        assert not finite.is_active("nesterov", {"optimizer": "adamw", "momentum": 0.3})

    def test_all_conditions_must_hold(self):
        space = Space({"a": Choice([1, 2]), "b": Choice([1, 2]), "c": Int(1, 2, when={"a": 1, "b": [1, 2]})})
        assert space.is_active("c", {"a": 1, "b": 2})
        assert not space.is_active("c", {"a": 2, "b": 2})
        assert not space.is_active("c", {"a": 1})

    def test_true_is_not_one(self):
        space = Space({"flag": Choice([True, False]), "x": Int(1, 2, when={"flag": True})})
        assert space.is_active("x", {"flag": True})
        assert not space.is_active("x", {"flag": 1})

    def test_an_unknown_name(self, space):
        with pytest.raises(KeyError):
            space.is_active("nothing", {})


class TestConfiguration:
    @pytest.mark.parametrize(
        "params",
        [
            {"lr": 0.01, "optimizer": "adamw"},
            {"lr": 0.1, "optimizer": "sgd", "momentum": 0},
            {"momentum": 0.99, "lr": 1e-4, "optimizer": "sgd"},
        ],
    )
    def test_a_good_one(self, space, params):
        assert space.problems_with(params) == []

    @pytest.mark.parametrize(
        ("params", "said"),
        [
            ({"lr": 1.0, "optimizer": "adamw"}, ["'lr' is 1.0, which is not a finite number from 0.0001 to 0.1"]),
            ({"lr": "0.01", "optimizer": "adamw"}, ["'lr' is '0.01', which is not a finite number from 0.0001 to 0.1"]),
            ({"lr": math.nan, "optimizer": "adamw"}, ["'lr' is nan, which is not a finite number from 0.0001 to 0.1"]),
            ({"optimizer": "adamw"}, ["'lr' is missing; give it a value: 0.0001 to 0.1, log"]),
            (
                {"lr": 0.01, "optimizer": "sdg"},  # whether momentum should be there is not known
                ["'optimizer' is 'sdg', which is not one of its options; did you mean 'sgd'?"],
            ),
            ({"lr": 0.01, "momentum": 0.5}, ["'optimizer' is missing; give it a value: sgd, adamw"]),
            ({"lr": 0.01, "optimizer": "sgd"}, ["'momentum' is missing; give it a value: 0 to 0.99"]),
            (
                {"lr": 0.01, "optimizer": "adamw", "momentum": 7},
                ["'momentum' is only active when optimizer is sgd; leave it out"],
            ),
            (
                {"Lr": 1, "optimizer": None, "momentum": 7},
                [
                    "there is no parameter 'Lr'; did you mean 'lr'?",
                    "'lr' is missing; give it a value: 0.0001 to 0.1, log",
                    "'optimizer' is None, which is not one of its options; available: 'sgd', 'adamw'",
                    "'momentum' is 7, which is not a finite number from 0 to 0.99",
                ],
            ),
        ],
    )
    def test_a_bad_one(self, space, params, said):
        assert space.problems_with(params) == said

    def test_doubt_is_passed_on_to_grandchildren(self, finite):
        assert finite.problems_with({"optimizer": "x", "depth": 1}) == [
            "'optimizer' is 'x', which is not one of its options; available: 'sgd', 'adamw'"
        ]

    @pytest.mark.parametrize(
        ("parameter", "good", "bad"),
        [
            (Float(0, 0.5, step=0.1), [0, 0.1, 0.1 * 3, 0.5], [0.05, 0.55, -0.1, True, None, 10**400]),
            (Float(1, 2), [1, 1.5, 2.0], [0.999, math.inf, "1"]),
            (Int(1, 6, step=2), [1, 3, 5], [2, 6, 7, 3.0, True]),
            (Choice([True, "1", None]), [True, "1", None], [1, 1.0, False, "None"]),
            (Choice([1, 2.5]), [1, 1.0, 2.5], [True, "1"]),
        ],
    )
    def test_what_a_parameter_can_be(self, parameter, good, bad):
        space = Space({"x": parameter})
        assert [value for value in good if space.problems_with({"x": value})] == []
        assert [value for value in bad if not space.problems_with({"x": value})] == []


class TestData:
    def test_a_space_and_its_data(self, space):
        assert Space.from_data(DATA) == space
        assert space.to_data() == DATA

    def test_the_round_trip_is_the_identity(self, finite):
        for space in (
            finite,
            Space({}),
            Space(
                {
                    "a.b": Choice([True, None, "x", 0.5]),
                    "c": Int(1, 9, step=4, when={"a.b": [None, "x"]}),
                    "d": Int(1, 9, log=True, when={"a.b": None, "c": 5}),
                }
            ),
        ):
            through_json = json.loads(json.dumps(space.to_data()))
            assert through_json == space.to_data()
            assert Space.from_data(through_json) == space
            assert list(Space.from_data(through_json)) == list(space)

    def test_defaults_are_left_out(self):
        assert Space({"x": Int(1, 2, log=False, step=1, when={})}).to_data() == {
            "x": {"type": "int", "low": 1, "high": 2}
        }

    def test_the_type_of_a_choice_may_be_left_out(self):
        assert Space.from_data({"x": {"options": [1, 2]}}) == Space({"x": Choice([1, 2])})

    def test_numbers_may_come_as_text(self):
        data = {
            "lr": {"type": "float", "low": "1e-4", "high": "1e-1"},
            "drop": {"type": "float", "low": "0", "high": 1, "step": "1e-1"},
            "width": {"type": "int", "low": "1e2", "high": "1e3", "step": "100"},
        }
        assert Space.from_data(data) == Space(
            {"lr": Float(1e-4, 0.1), "drop": Float(0, 1, step=0.1), "width": Int(100, 1000, step=100)}
        )

    @pytest.mark.parametrize(
        ("entry", "said"),
        [
            (0.1, ["is 0.1, which is not a mapping; write one such as {type: float, low: 0.0, high: 1.0}"]),
            (None, ["is None, which is not a mapping; write one such as {type: float, low: 0.0, high: 1.0}"]),
            ({}, ["has no type; add one of float, int, choice, fixed"]),
            ({"low": 1, "high": 2}, ["has no type; add one of float, int, choice, fixed"]),
            ({"typ": "float", "low": 1}, ["has a key 'typ', which no parameter has; did you mean 'type'?"]),
            ({"optons": [1, 2]}, ["has a key 'optons', which no parameter has; did you mean 'options'?"]),
            ({"choices": [1, 2]}, ["has a key 'choices', which no parameter has; did you mean 'options'?"]),
            (
                {"lower": 1, "hi": 2, "colour": 3},
                [
                    "has a key 'lower', which no parameter has; did you mean 'low'?",
                    "has a key 'hi', which no parameter has; did you mean 'high'?",
                    "has a key 'colour', which no parameter has; available: 'type', 'low', 'high', 'log', 'step',"
                    " 'default', 'prior', 'when', 'options', 'value'",
                    "has no type; add one of float, int, choice, fixed",
                ],
            ),
            (
                {"distribution": "log_uniform_values", "min": 1},
                [
                    "has a key 'distribution', which no parameter has; did you mean 'type'?",
                    "has a key 'min', which no parameter has; did you mean 'low'?",
                ],
            ),
            (
                {"distribution": ["uniform"], "min": 1, "max": 2},
                [
                    "has a key 'distribution', which no parameter has; did you mean 'type'?",
                    "has a key 'min', which no parameter has; did you mean 'low'?",
                    "has a key 'max', which no parameter has; did you mean 'high'?",
                ],
            ),
            ({"values": "abc"}, ["has a key 'values', which no parameter has; did you mean 'options'?"]),
            (
                {"type": "float", "min": 0, "max": 1},
                [
                    "has a key 'min', which a parameter of type float does not take; did you mean 'low'?",
                    "has a key 'max', which a parameter of type float does not take; did you mean 'high'?",
                ],
            ),
            (
                {"type": "choice", "values": [1, 2]},
                ["has a key 'values', which a parameter of type choice does not take; did you mean 'options'?"],
            ),
            (
                {"type": "loguniform", "low": 1, "high": 2},
                ["has type 'loguniform', which there is none of; did you mean 'float' with log: true?"],
            ),
            (
                {"type": "categorical", "options": [1, 2]},
                ["has type 'categorical', which there is none of; did you mean 'choice'?"],
            ),
            ({"type": "flaot", "low": 1}, ["has type 'flaot', which there is none of; did you mean 'float'?"]),
            ({"type": ["int"]}, ["has type ['int'], which there is none of; did you mean 'int'?"]),
            ({"type": 7}, ["has type 7, which there is none of; available: 'float', 'int', 'choice', 'fixed'"]),
            (
                {"type": "int", "low": 1, "hihg": 2},
                [
                    "has a key 'hihg', which a parameter of type int does not take; did you mean 'high'?",
                ],
            ),
            (
                {"type": "float"},
                [
                    "has no low, which a parameter of type float needs; add it",
                    "has no high, which a parameter of type float needs; add it",
                ],
            ),
            (
                {"options": ["a"], True: 1},
                [
                    "has a key True, which a parameter of type choice does not take; "
                    "available: 'options', 'default', 'prior', 'when'"
                ],
            ),
            ({"options": "a"}, ["has options 'a', which is not a list; write one such as [small, large]"]),
            (
                {"type": "float", "low": [1], "high": "x", "step": {}, "log": 1},
                [
                    "has low [1], which is not a finite number; write one such as 0.1",
                    "has high 'x', which is not a finite number; write one such as 0.1",
                    "has step {}, which is not a finite number; write one such as 0.1",
                    "has log 1, which is neither true nor false; write one of them",
                ],
            ),
        ],
    )
    def test_an_entry_that_breaks_rules(self, entry, said):
        assert data_problems({"x": entry}) == [f"space: 'x' {line}" for line in said]

    def test_every_mistake_is_told_at_once_and_none_twice(self):
        said = data_problems(
            {
                "optimizer": {"type": "chioce", "options": ["sgd"]},
                "momentum": {"type": "float", "low": 2, "high": 1, "when": {"optimizer": "sgd"}, "lo": 1},
                "bad name": {"type": "int"},
                "b": {"options": [1], "when": {"optimiser": "sgd"}},
            }
        )
        assert said == [
            "space: 'optimizer' has type 'chioce', which there is none of; did you mean 'choice'?",
            "space: 'momentum' has a key 'lo', which a parameter of type float does not take; did you mean 'low'?",
            "space: 'bad name' has no low, which a parameter of type int needs; add it",
            "space: 'bad name' has no high, which a parameter of type int needs; add it",
            "space: 'bad name' is not a name; use letters, digits and _, with dots between, such as 'bad_name'",
            "space: 'momentum' has low 2 above high 1; swap them",
            "space: 'b' is active when 'optimiser' is 'sgd', but there is no parameter 'optimiser'; "
            "did you mean 'optimizer'?",
        ]


class TestDigest:
    def test_it_is_the_same_in_another_process(self, space):
        code = "import sys, json; from orchestrator.space import Space; s = Space.from_data(json.loads(sys.argv[1]))"
        run = subprocess.run(
            [sys.executable, "-c", f"{code}; print(s.digest)", json.dumps(DATA)],
            env={**os.environ, "PYTHONHASHSEED": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == space.digest

    def test_it_does_not_change_between_releases(self, space):
        assert space.digest == "556511bac441"
        assert Space({}).digest == "44136fa355b3"  # sha256 of "{}"

    @pytest.mark.parametrize(
        "change",
        [
            {"lr": Float(1e-4, 0.2, log=True)},
            {"lr": Float(1e-4, 0.1)},
            {"momentum": Float(0, 0.99)},
            {"momentum": Float(0, 0.99, when={"optimizer": ["sgd", "adamw"]})},
            {"extra": Int(1, 2)},
        ],
    )
    def test_it_changes_with_the_content(self, space, change):
        assert Space({**space, **change}).digest != space.digest

    def test_it_does_not_change_with_the_spelling(self, space):
        respelt = {
            **space,
            "lr": Float("1e-4", 0.1, log=True),
            "momentum": Float(0.0, 0.99, when={"optimizer": ["sgd"]}),
        }
        assert Space(respelt).digest == space.digest


class TestGrid:
    def test_every_configuration_once_in_order(self, finite):
        momenta: list[dict[str, Any]] = [
            {"momentum": 0.0},
            {"momentum": 0.3, "nesterov": True},
            {"momentum": 0.3, "nesterov": False},
            {"momentum": 0.6},
            {"momentum": 0.9, "nesterov": True},
            {"momentum": 0.9, "nesterov": False},
        ]
        expected = [{"optimizer": "sgd", **momentum, "depth": depth} for momentum in momenta for depth in (1, 3, 5)]
        expected += [{"optimizer": "adamw", "depth": depth} for depth in (1, 3, 5)]
        assert list(finite.grid()) == expected
        assert finite.grid_size() == len(expected)
        assert [params for params in expected if finite.problems_with(params)] == []

    @pytest.mark.parametrize(
        ("parameter", "values"),
        [
            (Float(0, 0.5, step=0.1), [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]),
            (Float(0.1, 1, step=0.4), [0.1, 0.5, 0.9]),
            (Float(1e-5, 3e-5, step=1e-5), [1e-5, 2e-5, 3e-5]),
            (Float(2, 2), [2.0]),
            (Int(1, 6, step=2), [1, 3, 5]),
            (Int(2, 4, log=True), [2, 3, 4]),
            (Choice(["b", None, "a"]), ["b", None, "a"]),
        ],
    )
    def test_the_values_of_a_parameter(self, parameter, values):
        space = Space({"x": parameter})
        assert [params["x"] for params in space.grid()] == values
        assert space.grid_size() == len(values)
        assert space.endless == []

    def test_an_empty_space_has_one_configuration(self):
        assert list(Space({}).grid()) == [{}]
        assert Space({}).grid_size() == 1

    def test_a_size_is_counted_without_making_the_grid(self):
        wide = Int(1, 10**30)
        space = Space({"a": wide, "b": wide, "on": Choice([True, False]), "c": Int(1, 3, when={"on": True})})
        assert space.grid_size() == 10**60 * (3 + 1)
        assert next(space.grid()) == {"a": 1, "b": 1, "on": True, "c": 1}

    @pytest.mark.parametrize("ask", [Space.grid, Space.grid_size])
    def test_an_endless_space_has_none(self, space, ask):
        assert space.endless == ["lr", "momentum"]
        with pytest.raises(SpaceError) as caught:
            ask(space)
        assert list(caught.value.problems) == [
            "space: 'lr' has endless values from 0.0001 to 0.1, log, so there is no grid; "
            "give it a step, or make it a choice",
            "space: 'momentum' has endless values from 0 to 0.99, so there is no grid; "
            "give it a step, or make it a choice",
        ]


def test_rows():
    space = Space(
        {
            "lr": Float(1e-4, 0.1, log=True),
            "dropout": Float(0, 0.5, step=0.1),
            "optimizer": Choice(["sgd", "adamw", None]),
            "momentum": Float(0, 0.99, when={"optimizer": "sgd"}),
            "depth": Int(1, 8),
            "width": Int(16, 256, log=True, when={"optimizer": ["sgd", "adamw"], "depth": 3}),
            "batch": Int(32, 128, step=32),
        }
    )
    assert space.rows() == [
        ("lr", "0.0001 to 0.1, log"),
        ("dropout", "0 to 0.5, step 0.1"),
        ("optimizer", "sgd, adamw, None"),
        ("momentum", "0 to 0.99, when optimizer is sgd"),
        ("depth", "1 to 8, whole"),
        ("width", "16 to 256, log, whole, when depth is 3 and optimizer is sgd or adamw"),
        ("batch", "32 to 128, step 32, whole"),
    ]
