"""The contract of a trainable: what is built or called for a trial, and which hyperparameter goes where."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, ClassVar

from orchestrator.errors import SpecError
from orchestrator.naming import near_miss

PARTS = ("model", "data", "trainer")
# What W&B's sweeps are often given as a parameter, and a sweep here says itself.
LENGTHS = {"epoch", "epochs", "max_epochs", "n_epochs", "num_epochs"}


class AnyTrainable(ABC):
    """What can be trained, of whatever kind."""

    loop: ClassVar[str]
    """The module whose class `Loop` trains it: one in `orchestrator/loops/`, or any other that can be imported."""

    @abstractmethod
    def route(self, params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Sort hyperparameters into keyword arguments of what takes them.

        Raises:
            SpecError: for every hyperparameter that nothing takes.
        """


@dataclass(frozen=True, kw_only=True)
class TrainFunction(AnyTrainable):
    """A function with a loop of its own, `train(context, **hyperparameters)`, called on every rank of a trial.

    Source of its first argument: `orchestrator.context.Context`.
    """

    loop: ClassVar[str] = "orchestrator.loops.function"

    train: Callable[..., None]
    """Trains, and reports every epoch to its first argument, a `Context`; hyperparameters are keyword arguments."""
    test: Callable[..., Mapping[str, float]] | None = None
    """Called in the same way, with the checkpoint to test as `context.start_from`; returns its metrics."""

    def route(self, params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Every hyperparameter goes to the function.

        Raises:
            SpecError: for every hyperparameter that it does not take.
        """
        taken = _keywords(self.train, skip=1)
        name_of = getattr(self.train, "__name__", repr(self.train))
        unknown = [name for name in params if taken is not None and name not in taken]
        if unknown and taken is not None:
            raise SpecError(
                [
                    f"hyperparameter '{name}': {name_of} takes no '{name}'{near_miss(name, taken) or ';'}"
                    f" it takes: {', '.join(sorted(taken)) or 'none'}"
                    for name in unknown
                ]
            )
        return {"train": dict(params)}


@dataclass(frozen=True, kw_only=True)
class Trainable(AnyTrainable):
    """A LightningModule and its data, built anew for every trial from hyperparameters.

    A hyperparameter goes to the class whose `__init__` takes it by name, to both where both do; a prefix says
    which one is meant, in LightningCLI's words: `model.lr`, `data.batch_size`, `trainer.gradient_clip_val`, and of an
    argument that is an object itself `model.encoder.width`.
    """

    loop: ClassVar[str] = "orchestrator.loops.lightning"

    model: Callable[..., Any]
    """A LightningModule class, or anything called with keywords that returns one."""
    data: Callable[..., Any] | None = None
    """A LightningDataModule class; none where the module brings its own dataloaders."""
    model_args: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `model` that are the same in every trial."""
    data_args: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `data` that are the same in every trial."""

    def route(self, params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Sort hyperparameters into keyword arguments of `model`, `data` and Lightning's `trainer`.

        Raises:
            SpecError: for every hyperparameter that nothing takes, and every two that set the same argument.
        """
        accepts = {"model": _keywords(self.model), "data": _keywords(self.data) if self.data else frozenset()}
        routed: dict[str, dict[str, Any]] = {"model": {}, "data": {}, "trainer": {}}
        for part, given in (("model", self.model_args), ("data", self.data_args)):
            for name, value in given.items():
                _put(routed[part], name, value)
        problems = [
            f"init_args: {self._name_of(part)} takes no '{name}'{near_miss(name, taken) or ';'}"
            f" it takes: {', '.join(sorted(taken)) or 'none'}"
            for part, taken in accepts.items()
            for name in routed[part]
            if taken is not None and name not in taken
        ]
        places: dict[str, list[tuple[str, ...]]] = {}
        for name, value in params.items():
            part, _, rest = name.partition(".")
            if rest and part in PARTS:
                place, taken = _put(routed[part], rest, value), accepts.get(part)
                places[name] = [(part, *place)]
                if taken is not None and place[0] not in taken:
                    problems.append(f"hyperparameter '{name}': {self._refusal(part, rest, taken)}")
                continue
            takers = [part for part, names in accepts.items() if names is not None and name in names]
            takers = takers or [part for part, names in accepts.items() if names is None][:1]
            if not takers:
                known = sorted(set().union(*(names or () for names in accepts.values())))
                length = " (for how long a trial trains there is schedule.max_epochs)" if name in LENGTHS else ""
                problems.append(
                    f"hyperparameter '{name}' is taken by neither {self._names()}{near_miss(name, known) or ';'}"
                    f" they take: {', '.join(known) or 'none'}{length}"
                )
            places[name] = [(taker, name) for taker in takers]
            for taker in takers:
                routed[taker][name] = value
        problems += _overwritten(places)
        if problems:
            raise SpecError(problems)
        return routed

    def _refusal(self, part: str, name: str, taken: frozenset[str]) -> str:
        """Why a part does not take what is called so there."""
        head, _, rest = name.partition(".")
        if head in taken:
            return (
                f"'{rest}' would be of what {self._name_of(part)} takes as '{head}', which is not given in"
                f" init_args, as a mapping or a class path"
            )
        hint = near_miss(head, taken) or ";"
        return f"{self._name_of(part)} takes no '{head}'{hint} it takes: {', '.join(sorted(taken)) or 'none'}"

    def _name_of(self, part: str) -> str:
        build = self.model if part == "model" else self.data
        return getattr(build, "__name__", repr(build)) if build else "the data module, of which there is none,"

    def _names(self) -> str:
        parts = [part for part in (self.model, self.data) if part is not None]
        return " nor ".join(getattr(part, "__name__", repr(part)) for part in parts) + (
            "" if self.data else " nor any data module (none is given)"
        )


def _put(arguments: dict[str, Any], name: str, value: Any) -> tuple[str, ...]:
    """Set an argument, or what is within one that is written as a mapping: of an object `encoder.init_args.width`, or,
    as LightningCLI has it too, `encoder.width`.

    Returns:
        The argument's name, and the keys within it.
    """
    head, _, rest = name.partition(".")
    if not rest or not isinstance(given := arguments.get(head), Mapping):
        arguments[name] = value
        return (name,)
    inner = dict(given)
    if "class_path" in inner and rest.partition(".")[0] not in ("class_path", "init_args"):
        rest = f"init_args.{rest}"
    if rest.startswith("init_args."):
        inner["init_args"] = inner.get("init_args") or {}  # also where it is written and left empty
    arguments[head] = inner
    return (head, *_put(inner, rest, value))


def _overwritten(places: Mapping[str, list[tuple[str, ...]]]) -> Iterator[str]:
    """Hyperparameters of which one would overwrite the other, by where each goes."""
    for one, other in combinations(places, 2):
        if any(a[: len(b)] == b[: len(a)] for a in places[one] for b in places[other]):
            yield f"hyperparameters '{one}' and '{other}' both set the same argument; take one of them out"


def _keywords(build: Callable[..., Any], skip: int = 0) -> frozenset[str] | None:
    """The keyword arguments `build` takes after the first `skip`, or None where it takes any (`**kwargs`)."""
    parameters = list(inspect.signature(build).parameters.values())[skip:]
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(p.name for p in parameters if p.kind is not inspect.Parameter.VAR_POSITIONAL)
