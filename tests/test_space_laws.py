"""What holds for every space that can be written down: samples are valid, round trips the identity, algebra lawful."""

import json
import pickle
import random
from itertools import pairwise
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from strategies import NAMES, parameters, spaces

from orchestrator import distributions, wandb_distributions, wandb_yaml
from orchestrator.errors import SpaceError
from orchestrator.parameter import Choice, Fixed, Float, Int
from orchestrator.prior import Beta, LogUniform, Normal
from orchestrator.space import Space

# Derandomised: a test that fails for one in a thousand examples fails for who changed something, not for who did not.
settings.register_profile("laws", max_examples=40, deadline=None, derandomize=True, database=None,
                          suppress_health_check=[HealthCheck.too_slow])  # fmt: skip
settings.load_profile("laws")

PARTS = {each.__name__: each for each in (Float, Int, Choice, Fixed, Beta, LogUniform, Normal)}

seeds = st.integers(0, 2**32).map(random.Random)
FIRST, SECOND, THIRD = NAMES[:5], NAMES[5:], ["x", "y.z"]


@given(spaces(), seeds)
def test_every_sample_is_valid(space: Space, rng: random.Random) -> None:
    for _ in range(5):
        params = space.sample(rng)
        assert space.problems_with(params) == []
        assert space.is_feasible(params)


@given(spaces(), seeds)
def test_what_is_given_is_kept_in_a_sample(space: Space, rng: random.Random) -> None:
    first = space.default_params()
    assert space.problems_with(sample := space.sample(rng, given=first)) == []
    assert {name: sample[name] for name in first} == first


@given(parameters, seeds)
def test_a_drawn_value_is_one_that_it_can_take(parameter: Any, rng: random.Random) -> None:
    assert [parameter.objection(parameter.draw(rng)) for _ in range(20)] == [None] * 20


class TestRoundTrips:
    @given(spaces())
    def test_data_json_yaml_pickle_and_repr(self, space: Space) -> None:
        data = space.to_data()
        for again in (
            Space.from_data(data),
            Space.from_data(json.loads(json.dumps(data, allow_nan=False))),
            Space.from_data(yaml.safe_load(yaml.safe_dump(data, sort_keys=False))),
            pickle.loads(pickle.dumps(space)),
            eval(repr(space), {"Space": Space, **PARTS}),
        ):
            assert again == space
            assert hash(again) == hash(space)
            assert again.digest == space.digest
            assert list(again) == list(space)

    @given(spaces(constrained=False))
    def test_optuna(self, space: Space) -> None:
        sayable = {
            name: each for name, each in space.items()
            if distributions.unsayable(each) is None and not (isinstance(each, Choice) and len(each.options) == 1)
        }  # fmt: skip
        bare = Space({name: _plain(each) for name, each in sayable.items()})
        assert distributions.from_optuna(distributions.to_optuna(bare)) == bare

    @given(spaces(constrained=False))
    def test_wandb(self, space: Space) -> None:
        sayable = {name: each for name, each in space.items() if wandb_distributions.unsayable(each) is None}
        bare = Space({name: _plain(each, prior=getattr(each, "prior", None)) for name, each in sayable.items()})
        assert wandb_yaml.from_wandb(json.loads(json.dumps(wandb_yaml.to_wandb(bare)))) == bare

    @given(spaces(), seeds)
    def test_what_optuna_keeps_of_a_configuration(self, space: Space, rng: random.Random) -> None:
        params = space.sample(rng)
        assert distributions.params_of(space, distributions.chosen_for(params)) == params


def _plain(parameter: Any, prior: Any = None) -> Any:
    """Without conditions and default."""
    if isinstance(parameter, Fixed):
        return Fixed(parameter.value)
    if isinstance(parameter, Choice):
        return Choice(parameter.options, prior=prior)
    return type(parameter)(parameter.low, parameter.last, log=parameter.log, step=parameter.step, prior=prior)


class TestAlgebra:
    @given(spaces(names=FIRST), spaces(names=SECOND), spaces(names=THIRD))
    def test_combining_is_associative_commutative_and_idempotent(self, a: Space, b: Space, c: Space) -> None:
        assert (a | b) | c == a | (b | c) == a.combine(b, c)
        assert a | b == b | a
        assert a | a == a == a | Space({})

    @given(spaces())
    def test_nesting_and_renaming_are_undone_by_renaming(self, space: Space) -> None:
        assume(space)
        assert space.nest("a").rename({f"a.{name}": name for name in space}) == space
        assert space.nest("b").nest("a") == space.nest("a.b")
        moved = {name: f"other.{name}" for name in space}
        assert space.rename(moved) == space.nest("other")
        assert space.rename({}) == space

    @given(spaces(), seeds)
    def test_nesting_changes_no_configuration(self, space: Space, rng: random.Random) -> None:
        params = space.sample(rng)
        nested = space.nest("a.b")
        assert nested.problems_with({f"a.b.{name}": value for name, value in params.items()}) == []
        assert nested.problems_with(params) != [] or not params

    @given(spaces(), seeds)
    def test_fixing_at_a_sample(self, space: Space, rng: random.Random) -> None:
        params = space.sample(rng)
        fixed = space.fix(params)
        assert fixed.sample(rng) == params
        assert fixed.grid_size() == 1
        assert fixed.fix(params) == fixed

    @given(spaces(), seeds)
    def test_what_a_narrowed_space_can_be_the_space_can(self, space: Space, rng: random.Random) -> None:
        changes = {name: change for name, each in space.items() if (change := _narrower(each, rng)) is not None}
        try:
            narrowed = space.narrow(changes)
            params = narrowed.sample(rng)
        except SpaceError as exc:  # a constraint that nothing fulfils any more
            assume("drawn fulfils" in str(exc))
            assume(False)
        assert space.problems_with(params) == []
        assert narrowed.narrow({name: each for name, each in changes.items() if name in narrowed}) == narrowed

    @given(spaces())
    def test_narrowing_to_itself_is_nothing(self, space: Space) -> None:
        assert space.narrow(dict(space)) == space
        assert space.narrow({}) == space

    @given(spaces(constrained=False))
    def test_narrowing_back_is_widening_and_an_error(self, space: Space) -> None:
        for name, parameter in space.items():
            narrower = _narrower(parameter, random.Random(0))
            if narrower is None or (narrowed := space.narrow({name: narrower}))[name].size == parameter.size:
                continue
            with pytest.raises(SpaceError, match="is to be narrowed, but"):
                narrowed.narrow({name: parameter.with_conditions(narrowed[name].conditions)})

    @given(spaces(names=FIRST), st.lists(parameters, min_size=1, max_size=2))
    def test_what_is_added_can_be_dropped(self, space: Space, more: list[Any]) -> None:
        added = {f"new.x{index}": parameter for index, parameter in enumerate(more)}
        constraint = "new.x0 == new.x0"
        assert space.extend(added, [constraint]).drop(*added, constraint) == space

    @given(spaces())
    def test_the_origin_is_no_part_of_a_space(self, space: Space) -> None:
        other = space.known_as("elsewhere")
        assert other == space
        assert other.digest == space.digest
        assert hash(other) == hash(space)
        assert other.nest("a").origin == ("elsewhere", "nest a")


def _narrower(parameter: Any, rng: random.Random) -> Any:
    """A change that keeps some of the values; None where there is nothing to take away."""
    if isinstance(parameter, Fixed) or parameter.size == 1:
        return None
    if isinstance(parameter, Choice):
        return list(parameter.values())[: rng.randrange(1, len(parameter.options))]
    values = sorted({parameter.draw(rng) for _ in range(2)})
    return {"low": values[0], "high": values[-1]}


class TestDraws:
    """Statistical sanity: 2,000 draws, bounds that chance passes in fewer than one of a million runs; seeded."""

    DRAWS = 2000

    def shares(self, parameter: Any, *edges: float) -> list[float]:
        rng = random.Random(7)
        drawn = [parameter.draw(rng) for _ in range(self.DRAWS)]
        inner = [sum(low <= value < high for value in drawn) for low, high in pairwise(edges)]
        return [count / self.DRAWS for count in inner]

    @pytest.mark.parametrize(
        ("parameter", "edges", "expected"),
        [
            (Float(0, 1), (0, 0.25, 0.5, 0.75, 1.01), [0.25] * 4),
            (Float(1e-4, 1, log=True), (1e-4, 1e-3, 1e-2, 1e-1, 1.01), [0.25] * 4),
            (Float(0, 1, step=0.25), (0, 0.2, 0.4, 0.6, 0.8, 1.1), [0.2] * 5),
            (Int(1, 4), (1, 2, 3, 4, 5), [0.25] * 4),
            (Int(1, 7, step=2), (1, 3, 5, 7, 9), [0.25] * 4),
            (Choice([0, 1, 2], prior=[1, 2, 1]), (0, 1, 2, 3), [0.25, 0.5, 0.25]),
            # Of a normal distribution cut off at 2 sigma, 71.5% is within one (0.6827 / 0.9545).
            (Float(-2, 2, prior=Normal(0, 1)), (-2, -1, 1, 2.01), [0.142, 0.715, 0.142]),
            (Float(1e-2, 1e2, log=True, prior=Normal(1, 10)), (1e-2, 1e-1, 10, 101), [0.142, 0.715, 0.142]),
            # A beta(2, 1) has distribution function x^2.
            (Float(0, 1, prior=Beta(2, 1)), (0, 0.5, 1.01), [0.25, 0.75]),
            (Float(1, 100, log=True, prior=Beta(2, 1)), (1, 10, 101), [0.25, 0.75]),
            # Every factor alike: of 4 to 64 in steps of 4, as many below 16 as above, by the edges' halves.
            (Float(1, 100, step=1, prior="log"), (0, 10.5, 101), [0.51, 0.49]),
        ],
    )
    def test_where_they_fall(self, parameter: Any, edges: tuple[float, ...], expected: list[float]) -> None:
        assert self.shares(parameter, *edges) == pytest.approx(expected, abs=0.055)

    def test_a_log_int_gives_each_factor_its_share(self) -> None:
        # As Optuna's: log-uniform between 0.5 and 16.5, rounded; of each whole number, log((n + .5) / (n - .5)).
        assert self.shares(Int(1, 16, log=True), 1, 4, 17) == pytest.approx([0.557, 0.443], abs=0.055)
