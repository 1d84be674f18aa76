"""What is known before a sweep begins: results from elsewhere, as they fit its space."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator import ranking
from orchestrator.errors import SpaceError
from orchestrator.parameter import UNSET
from orchestrator.space import Space
from orchestrator.spec import Spec

OUTSIDE = "outside this space"


@dataclass(frozen=True, kw_only=True)
class Found:
    """A trial that was run elsewhere."""

    params: Mapping[str, Any]
    """All its hyperparameters, those that were fixed there as well."""
    curve: Mapping[int, float]
    """The metric by epoch, epochs counted from 1; of a run in W&B its best value alone, at the last one."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a sweep makes of one."""

    params: Mapping[str, Any]
    """A configuration of this sweep's space."""
    curve: Mapping[int, float]
    """As far as trials are trained here."""
    value: float | None
    """The best of the curve; None where it is shorter than trials are trained here."""
    exact: bool
    """Whether it is the very configuration that was run, and as long; then it is not run again."""


def fitted(spec: Spec, trials: Iterable[Found | str]) -> tuple[list[Known], Counter[str]]:
    """Take what fits a sweep.

    What an earlier trial did not have takes its default, or is drawn where it has none; what this space does not have
    is left out, unless the sweep holds it fixed at another value.

    Args:
        spec: the sweep, resolved.
        trials: what was found; a text is why one can be of no use.

    Returns:
        What is known, and how often trials were dropped for which reason.
    """
    space, taken, dropped = spec.load_space(), list[Known](), Counter[str]()
    for index, trial in enumerate(trials):
        fit = trial if isinstance(trial, str) else _fit(spec, space, trial, index)
        if isinstance(fit, str):
            dropped[fit] += 1
        else:
            taken.append(fit)
    return taken, dropped


def _fit(spec: Spec, space: Space, trial: Found, index: int) -> Known | str:
    last = spec.schedule.max_epochs
    curve = {epoch: value for epoch, value in sorted(trial.curve.items()) if epoch <= last}
    if (best := ranking.best_epoch(spec.goal, curve)) is None:
        return "without a value"
    for name, value in spec.params.items():
        if name in trial.params and trial.params[name] != value:
            return f"with another {name}"
    given: dict[str, Any] = {}
    exact = True
    for name, parameter in space.items():
        if not space.is_active(name, given):
            continue
        if name in trial.params:
            given[name] = trial.params[name]
        elif parameter.best_guess is not UNSET:
            given[name] = parameter.best_guess
        else:
            exact = False
    if not given.keys() & trial.params.keys():
        return "without a hyperparameter of this space"
    if any(space[name].objection(value) is not None for name, value in given.items()):
        return OUTSIDE
    try:
        params = space.sample(random.Random(f"{spec.search.seed}/known/{index}"), given)
    except SpaceError:
        return OUTSIDE
    if space.problems_with(params):
        return OUTSIDE
    whole = max(trial.curve) >= last
    return Known(params=params, curve=curve, value=curve[best] if whole else None, exact=exact and whole)


def to_text(known: Iterable[Known]) -> str:
    """As JSON; `from_text` reads it back."""
    return json.dumps([asdict(each) for each in known], indent=1)


def from_text(text: str) -> list[Known]:
    """What `to_text` wrote."""
    return [
        Known(**{**each, "curve": {int(epoch): value for epoch, value in each["curve"].items()}})
        for each in json.loads(text)
    ]
