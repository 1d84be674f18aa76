"""Spaces made of spaces: what each step does, what it refuses, and what the result knows of where it came from."""

import random

import pytest

from orchestrator.comparison import differences
from orchestrator.errors import SpaceError
from orchestrator.prior import Beta, Normal
from orchestrator.space import Choice, Fixed, Float, Int, Space


@pytest.fixture
def space() -> Space:
    return Space(
        {
            "lr": Float(1e-4, 0.1, log=True, default=1e-3, prior=Normal(1e-3, 3)),
            "optimizer": Choice(["sgd", "adamw", "lion"], default="adamw", prior=[1, 2, 1]),
            "momentum": Float(0, 0.99, when={"optimizer": "sgd"}),
            "betas": Choice([[0.9, 0.999], [0.9, 0.98]], when={"optimizer": ["adamw", "lion"]}),
            "depth": Int(1, 8),
        },
        ["lr * depth <= 0.5", "momentum <= 0.9 or depth < 4"],
    )


def problems(call, *args) -> list[str]:
    with pytest.raises(SpaceError) as caught:
        call(*args)
    return list(caught.value.problems)


class TestCombine:
    def test_a_clash_is_an_error(self, space):
        other = Space({"lr": Float(0, 1), "depth": Int(1, 9), "width": Int(1, 2)})
        assert [line.split(";")[0] for line in problems(space.combine, other)] == [
            "space: 'lr' is 0.0001 to 0.1, log, believed about 0.001, first 0.001 in one space and 0 to 1 in another",
            "space: 'depth' is 1 to 8, whole in one space and 1 to 9, whole in another",
        ]

    def test_origins_of_all_are_kept(self):
        one, other = Space({"a": Int(1, 2)}).known_as("one@1"), Space({"b": Int(1, 2)}).known_as("other@2", "nest x")
        assert (one | other).origin == ("one@1", "combine with", "  other@2", "  nest x")


class TestNarrow:
    def test_what_no_longer_fits_goes(self, space):
        narrowed = space.narrow({"lr": {"low": 0.01}, "optimizer": ["sgd", "lion"]})
        assert narrowed["lr"] == Float(0.01, 0.1, log=True)
        assert narrowed["optimizer"] == Choice(["sgd", "lion"], prior=[0.5, 0.5])
        assert narrowed["betas"].conditions == {"optimizer": ("lion",)}
        assert narrowed.narrow({"optimizer": ["lion"]}).constraints == narrowed.constraints[:1]
        assert "momentum" not in narrowed.narrow({"optimizer": ["lion"]})

    def test_what_still_fits_stays(self, space):
        narrowed = space.narrow({"lr": {"high": 0.01}, "optimizer": ["adamw", "sgd"], "depth": [2, 4]})
        assert narrowed["lr"] == Float(1e-4, 0.01, log=True, default=1e-3, prior=Normal(1e-3, 3))
        assert narrowed["optimizer"] == Choice(["adamw", "sgd"], default="adamw", prior=[2, 1])
        assert narrowed["depth"] == Choice([2, 4])
        assert narrowed["momentum"] == space["momentum"]
        assert narrowed.origin[-1] == "narrow depth: 1 to 8, whole -> 2, 4"

    @pytest.mark.parametrize(
        ("name", "change", "said"),
        [
            (
                "lr",
                {"high": 1},
                "'lr' is to be narrowed, but can be 1, which is not a finite number from 0.0001 to 0.1",
            ),
            ("lr", {"low": 1e-5}, "'lr' is to be narrowed, but can be 1e-05, which is not"),
            ("lr", Choice([0.01, 1]), "'lr' is to be narrowed, but can be 1, which is not"),
            ("depth", Float(1, 8), "'depth' is to be narrowed, but can be 1, which is not a whole number"),
            ("depth", {"low": 0}, "'depth' is to be narrowed, but can be 0, which is not"),
            ("optimizer", ["sgd", "adam"], "but can be 'adam', which is not one of its options; did you mean 'adamw'?"),
            ("optimizer", Float(0, 1), "'optimizer' is to be narrowed, but takes endless values, 0 to 1"),
            ("momentum", Float(0, 0.5, when={"optimizer": "lion"}), "would be active at other times"),
            ("momentum", {"when": {}}, "'momentum' has no 'when' to narrow"),
            ("momentum", {"hihg": 1}, "'momentum' has no 'hihg' to narrow; did you mean 'high'?"),
            ("momentum", {"low": 0.5, "high": 0.1}, "'momentum' has low 0.5 above high 0.1; swap them"),
            ("momentum", 3, "'momentum' is narrowed to 3; give a parameter"),
            ("lr", {"default": 1}, "'lr' has default 1.0, which is not"),
            ("optimzer", ["sgd"], "there is no parameter 'optimzer'; did you mean 'optimizer'?"),
        ],
    )
    def test_widening_by_accident_is_an_error(self, space, name, change, said):
        [problem] = problems(space.narrow, {name: change})
        assert said in problem

    @pytest.mark.parametrize(
        ("wide", "narrow", "why"),
        [
            (Int(0, 8, step=2), Int(0, 8, step=4), None),
            (Int(0, 8, step=2), Int(2, 6, step=2), None),
            (Int(0, 8, step=2), Int(0, 8), "takes values between those of"),
            (Int(0, 8, step=2), Int(1, 7, step=2), "can be 1, which"),
            (Float(0, 1, step=0.1), Float(0.3, 0.9, step=0.3), None),
            (Float(0, 1, step=0.1), Float(0, 1, step=0.25), "takes values between those of"),
            (Float(0, 1, step=0.1), Float(0, 1), "takes values between those of"),
            (Float(0, 9), Int(1, 8), None),
            (Float(0, 9), Fixed(3), None),
            (Float(0, 1), Float(0.2, 1, prior=Beta(2, 2)), None),
            (Choice([1, [2]]), Fixed([2]), None),
            (Choice([1, 2, 3]), Int(1, 3), None),
            (Choice([1, 2, 3]), Int(1, 4), "can be 4, which"),
            (Fixed(1), Fixed(2), "can be 2, which is not 1, at which it is fixed"),
        ],
    )
    def test_what_is_within_what(self, wide, narrow, why):
        found = wide.beyond(narrow)
        assert found is None if why is None else found.startswith(why)


class TestFix:
    def test_a_parameter_is_fixed_under_its_conditions(self, space):
        fixed = space.fix({"momentum": 0.9})
        assert fixed["momentum"] == Fixed(0.9, when={"optimizer": "sgd"})
        assert fixed.origin[-1] == "fix momentum: 0.9"

    def test_what_can_never_be_active_goes(self, space):
        assert set(space.fix({"optimizer": "sgd"})) == {"lr", "optimizer", "depth", "momentum"}

    def test_only_at_a_value_that_it_can_have(self, space):
        assert problems(space.fix, {"optimizer": "adam", "dept": 2}) == [
            "space: there is no parameter 'dept'; did you mean 'depth'?",
            "space: 'optimizer' is fixed at 'adam', which is not one of its options; did you mean 'adamw'?",
        ]


class TestNames:
    def test_conditions_and_constraints_are_renamed_along(self, space):
        nested = space.nest("model")
        assert nested["model.momentum"].conditions == {"model.optimizer": ("sgd",)}
        assert [str(each) for each in nested.constraints] == [
            "model.lr * model.depth <= 0.5",
            "model.momentum <= 0.9 or model.depth < 4",
        ]
        assert nested.rename({"model": "net"}) == space.nest("net")
        for names in ({"model.lr": "lr", "model": "net"}, {"model": "net", "model.lr": "lr"}):
            assert nested.rename(names) == space.nest("net").rename({"net.lr": "lr"})

    @pytest.mark.parametrize(
        ("names", "said"),
        [
            ({"lr": "depth"}, "would become 'depth', which is taken; choose another name"),
            ({"l": "x"}, "there is no parameter or group 'l'; "),
            ({"dep": "x"}, "there is no parameter or group 'dep'; did you mean 'depth'?"),
            ({"lr": "2x"}, "'2x' is not a name; "),
        ],
    )
    def test_names_that_cannot_be(self, space, names, said):
        assert said in problems(space.rename, names)[0]

    def test_a_prefix_that_cannot_be(self, space):
        assert "'a-b.lr' is not a name" in problems(space.nest, "a-b")[0]


class TestMoreAndLess:
    def test_what_is_added_may_hang_on_what_is_there(self, space):
        more = space.extend({"nesterov": Choice([True, False], when={"optimizer": "sgd"})}, ["depth != 5"])
        assert len(more) == 6
        assert more.origin[1:] == ("add nesterov: True, False, when optimizer is sgd", "add depth != 5")
        assert "'lr' is there already" in problems(space.extend, {"lr": Int(1, 2)})[0]

    def test_what_others_hang_on_stays(self, space):
        assert "'momentum' is active when 'optimizer' is" in problems(space.drop, "optimizer")[0]
        assert "is on 'depth', which is no parameter" in problems(space.drop, "depth")[0]
        assert "there is no parameter 'x'" in problems(space.drop, "x")[0]
        smaller = space.drop("momentum", "momentum<=0.9 or depth<4", "betas")
        assert list(smaller) == ["lr", "optimizer", "depth"]
        assert len(smaller.constraints) == 1

    def test_keeping_drops_the_rest(self, space):
        assert list(space.keep("lr", "depth")) == ["lr", "depth"]
        assert len(space.keep("lr", "depth").constraints) == 1
        assert space.keep("lr", "optimizer").constraints == ()

    def test_replacing_may_widen(self, space):
        assert space.replace({"depth": Int(1, 99)})["depth"] == Int(1, 99)
        assert "there is no parameter 'width'" in problems(space.replace, {"width": Int(1, 2)})[0]


class TestSubspaces:
    def test_they_become_conditions_beside_their_choice(self):
        adam = {"beta": Float(0.8, 0.99), "lr": Float(1e-4, 1e-2, log=True)}
        sgd = Space({"momentum": Float(0, 0.99), "lr": Float(1e-4, 1e-2, log=True)}, ["momentum + lr <= 0.995"])
        space = Space({"model.optimizer": Choice({"sgd": sgd, "adam": adam, "none": None}, default="sgd")})
        assert space == Space(
            {
                "model.optimizer": Choice(["sgd", "adam", "none"], default="sgd"),
                "model.momentum": Float(0, 0.99, when={"model.optimizer": "sgd"}),
                "model.lr": Float(1e-4, 1e-2, log=True, when={"model.optimizer": ["sgd", "adam"]}),
                "model.beta": Float(0.8, 0.99, when={"model.optimizer": "adam"}),
            },
            ["model.momentum + model.lr <= 0.995"],
        )
        assert Space.from_data(space.to_data()) == space

    def test_they_nest(self):
        inner = {"b": Choice({1: {"c": Int(1, 2)}, 2: {}})}
        space = Space({"a": Choice({"x": inner, "y": {}})})
        assert space["c"].conditions == {"a": ("x",), "b": (1,)}
        assert not space.is_active("c", {"a": "y", "b": 1})

    def test_from_data(self):
        data = {"opt": {"options": {"sgd": {"momentum": {"type": "float", "low": 0, "high": 1}}, "adam": None}}}
        assert Space.from_data(data) == Space(
            {"opt": Choice(["sgd", "adam"]), "momentum": Float(0, 1, when={"opt": "sgd"})}
        )

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"a": {"x": Int(1, 2)}, "b": {"x": Int(1, 3)}}, "option 'b' of 'choice' brings 'x', which another option"),
            ({"a": {"other": Int(1, 2)}}, "the choice 'choice' brings 'other', which the space has already"),
            ({"a": 3}, "has option 'a' bring 3; give it parameters, or nothing"),
            ({"a": {"x": 3}}, "'x' is 3, which is not a parameter"),
            ({}, "has no options; give at least one"),
        ],
    )
    def test_what_cannot_be(self, options, said):
        assert said in problems(Space, {"other": Int(1, 9), "choice": Choice(options)})[0]


class TestFirst:
    def test_only_what_has_a_default_and_is_active(self, space):
        assert space.default_params() == {"lr": 1e-3, "optimizer": "adamw"}
        assert Space({"a": Fixed(1), "b": Int(1, 2)}).default_params() == {}
        assert Space({"a": Fixed(1), "b": Int(1, 2, default=1, when={"a": 1})}).default_params() == {"a": 1, "b": 1}

    def test_constraints_that_nothing_fulfils_are_told(self):
        with pytest.raises(SpaceError, match=r"none of 10000 configurations drawn fulfils 'a \+ b <= 1'"):
            Space({"a": Int(1, 2), "b": Int(1, 2)}, ["a + b <= 1"]).sample(random.Random(0))

    def test_a_grid_keeps_to_the_constraints(self):
        space = Space({"a": Int(1, 3), "b": Int(1, 3)}, ["a < b"])
        assert list(space.grid()) == [{"a": 1, "b": 2}, {"a": 1, "b": 3}, {"a": 2, "b": 3}]
        assert space.grid_size() == 3
        assert space.problems_with({"a": 2, "b": 1}) == ["'a < b' does not hold"]
        assert space.constraint_violations({"a": 3, "b": 1}) == [2]


class TestDifferences:
    def test_none(self, space):
        assert differences(space, Space.from_data(space.to_data())) == []

    def test_some(self, space):
        other = space.narrow({"lr": {"high": 0.01}}).drop("betas").extend({"x": Int(1, 2)}, ["x < depth"])
        other = other.replace({"depth": Int(1, 8, prior=Beta(1, 2))})
        assert differences(space, other) == [
            "~ lr: 0.0001 to 0.1, log, believed about 0.001, first 0.001"
            " -> 0.0001 to 0.01, log, believed about 0.001, first 0.001",
            "- betas: [0.9, 0.999], [0.9, 0.98], when optimizer is adamw or lion",
            "~ depth: 1 to 8, whole -> 1 to 8, whole, believed beta(1, 2)",
            "+ x: 1 to 2, whole",
            "+ constraint: x < depth",
        ]

    def test_what_words_do_not_tell_is_written_out(self):
        one, other = (Space({"x": Float(0, 1, prior=Normal(0.5, spread))}) for spread in (0.1, 0.2))
        [line] = differences(one, other)
        assert "spread=0.1" in line
        assert "spread=0.2" in line
