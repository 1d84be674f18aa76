"""Hyperparameters and arguments that nothing takes are found before anything is imported."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest

from orchestrator import catalog, signature
from orchestrator import spec as specs
from orchestrator.errors import SpecError

SOURCE = """
from somewhere import Base, decorated

class Plain(LightningModule):
    def __init__(self, width, *, lr=0.1):
        pass

class Any(LightningModule):
    def __init__(self, **kwargs):
        pass

class Inherits(Base):
    pass

class Empty(pl.LightningModule):
    pass

@decorated
class Decorated(LightningModule):
    def __init__(self, width):
        pass

def train(context, *, lr=0.1):
    pass

TRAINABLE = Trainable(model=Plain, data=Empty)
FUNCTION = TrainFunction(train=train)
WRAPPED = TrainFunction(train=wrapped)

@wraps(train)
def wrapped(context, **hyperparameters):
    pass
MADE: Trainable = make()
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "foreseen_module.py"
    path.write_text(SOURCE)
    return path


@pytest.mark.parametrize(
    ("name", "takes"),
    [("Plain", ["width", "lr"]), ("Empty", []), ("train", ["context", "lr"])],
)
def test_what_a_file_tells(module: Path, name: str, takes: list[str]) -> None:
    assert list(inspect.signature(signature.foresee(module, name)).parameters) == takes


@pytest.mark.parametrize("name", ["Any", "Inherits", "Decorated", "nowhere", "TRAINABLE"])
def test_what_only_an_import_could_tell_takes_anything(module: Path, name: str) -> None:
    assert inspect.signature(signature.foresee(module, name)) == signature.ANYTHING


@pytest.mark.parametrize(
    ("reference", "wrong"),
    [
        ("foreseen_module:TRAINABLE", "widht"),
        ("foreseen_module:FUNCTION", "widht"),
        ("foreseen_module:Plain", "widht"),
        ("foreseen_module:train", "widht"),
    ],
)
def test_a_misspelt_hyperparameter_is_foreseen(module: Path, reference: str, wrong: str) -> None:
    trainable = catalog.foresee_trainable(reference)
    assert trainable is not None
    trainable.route({"lr": 0.1})
    with pytest.raises(SpecError, match=f"'{wrong}'"):
        trainable.route({wrong: 3})
    assert "foreseen_module" not in sys.modules


def test_a_file_is_parsed_once_and_again_when_it_has_changed(module: Path) -> None:
    assert signature.parsed(module) is signature.parsed(module)
    module.write_text("train = 3")
    assert signature.defined(module, "Plain") is None


def test_a_wrapped_function_may_take_anything(module: Path) -> None:
    trainable = catalog.foresee_trainable("foreseen_module:WRAPPED")
    assert trainable is not None
    assert trainable.route({"widht": 3}) == {"train": {"widht": 3}}


def test_what_is_made_by_running_code_is_not_foreseen(module: Path) -> None:
    assert catalog.foresee_trainable("foreseen_module:MADE") is None


def test_every_argument_of_every_kind_is_checked(module: Path) -> None:
    data = {
        "trainable": {"model": {"class_path": "foreseen_module.Plain", "init_args": {"lrr": 1}}},
        "space": {"widht": {"options": [1, 2]}},
        "params": {"epochs": 3},
        "metric": "x",
        "goal": "minimize",
    }
    with pytest.raises(SpecError) as raised:
        specs.check(data)
    assert [problem.partition(";")[0] for problem in raised.value.problems] == [
        "init_args: Plain takes no 'lrr'",
        "hyperparameter 'epochs' is taken by neither Plain nor any data module (none is given)",
        "hyperparameter 'widht' is taken by neither Plain nor any data module (none is given)",
    ]
    assert raised.value.problems[1].endswith("(for how long a trial trains there is schedule.max_epochs)")
    with pytest.raises(SpecError, match="Lightning's Trainer takes no 'gradient_clip_vall'; did you mean"):
        specs.read(None, ["trainer.gradient_clip_vall=1"])
    assert {"gradient_clip_val", "max_epochs"} <= catalog.trainer_arguments()
