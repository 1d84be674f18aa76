"""Search spaces drawn by hypothesis: every kind of parameter, conditions, groups, defaults, priors, constraints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from orchestrator.parameter import Choice, Fixed, Float, Int, Parameter
from orchestrator.prior import Beta, LogUniform, Normal
from orchestrator.space import Space

NAMES = ["lr", "depth", "width", "optimizer", "momentum", "model.norm", "model.block.width", "data.batch_size", "seed"]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-100, 100),
    st.decimals(-10, 10, places=2).map(float),
    st.sampled_from("abcdef"),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=2),
    max_leaves=4,
)
# Decimals as people write them: three digits and a power of ten.
positive = st.builds(lambda digits, power: float(f"{digits}e{power}"), st.integers(1, 999), st.integers(-8, 2))


@st.composite
def floats(draw: st.DrawFn) -> Float:
    """A range of real numbers, with at most one of a log scale and a step."""
    kind = draw(st.sampled_from(["plain", "log", "step"]))
    low, width = draw(positive), draw(positive)
    if kind == "step":
        times, start = draw(st.integers(1, 40)), draw(st.integers(-20, 20))
        low, high, step = (float(f"{number:.12g}") for number in (start * width, (start + times) * width, width))
        bare = Float(low, high, step=step)
    elif kind == "log":
        bare = Float(low, float(f"{low * (1 + width):.12g}"), log=True)
    else:
        bare = Float(-low, float(f"{width:.12g}"))
    return draw(_with_opinions(bare))


@st.composite
def ints(draw: st.DrawFn) -> Int:
    """A range of whole numbers."""
    kind = draw(st.sampled_from(["plain", "log", "step"]))
    low, width, step = draw(st.integers(1, 50)), draw(st.integers(1, 200)), draw(st.integers(1, 16))
    if kind == "step":
        bare = Int(low * step, (low + width) * step, step=step)
    else:
        bare = Int(low if kind == "log" else low - 25, low + width, log=kind == "log")
    return draw(_with_opinions(bare))


@st.composite
def _with_opinions(draw: st.DrawFn, bare: Any) -> Any:
    centre = bare.low if draw(st.booleans()) else bare.last
    spreads = st.sampled_from([1.5, 2.0, 10.0] if bare.log else [0.01, 1.0, 30.0])
    priors = [st.none(), st.builds(Beta, positive, positive), st.builds(Normal, st.just(centre), spreads)]
    priors += [st.just(LogUniform())] if bare.low > 0 else []
    default = draw(st.sampled_from([None, bare.low, bare.last]))
    return type(bare)(bare.low, bare.high, log=bare.log, step=bare.step, default=default, prior=draw(st.one_of(priors)))


@st.composite
def choices(draw: st.DrawFn) -> Choice:
    """A choice of plain values, of which no two are the same to Optuna."""
    options: list[Any] = []
    for value in draw(st.lists(values, min_size=1, max_size=5)):
        if not Choice([*options, value]).problems():
            options.append(value)
    weights = st.lists(st.integers(1, 9), min_size=len(options), max_size=len(options))
    bare = Choice(options, prior=draw(st.none() | weights))
    return Choice(options, prior=bare.prior, default=draw(st.sampled_from(options))) if draw(st.booleans()) else bare


parameters: st.SearchStrategy[Parameter] = st.one_of(floats(), ints(), choices(), st.builds(Fixed, values))


@st.composite
def spaces(draw: st.DrawFn, *, names: Sequence[str] = NAMES, constrained: bool = True) -> Space:
    """Parameters under some of the names, conditions on earlier ones, and constraints that can be fulfilled."""
    found: dict[str, Parameter] = {}
    for name in draw(st.lists(st.sampled_from(names), unique=True, max_size=6)):
        parameter = draw(parameters)
        parents = [p for p, each in found.items() if isinstance(each, Choice | Int | Fixed)]
        if parents and draw(st.booleans()):
            parent = draw(st.sampled_from(parents))
            some = [value for value, _ in zip(found[parent].values(), range(5), strict=False)]
            wanted = draw(st.lists(st.sampled_from(some), min_size=1, max_size=3))
            parameter = parameter.with_conditions({parent: wanted})
        found[name] = parameter
    return Space(found, draw(_constraints(found)) if constrained else ())


@st.composite
def _constraints(draw: st.DrawFn, found: dict[str, Parameter]) -> list[str]:
    """Constraints that at least half of each range fulfils, and that defaults fulfil."""
    ranges = {name: each for name, each in found.items() if isinstance(each, Float | Int) and each.prior is None}
    written = []
    for name in draw(st.lists(st.sampled_from(sorted(ranges)), unique=True, max_size=2)) if ranges else []:
        parameter = ranges[name]
        middle = math.sqrt(parameter.low * parameter.high) if parameter.log else (parameter.low + parameter.high) / 2
        if parameter.default is None or parameter.default <= middle:
            written.append(f"{name} <= {middle}")
    return written
