"""Class paths among arguments, as LightningCLI users write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.cli import OptimizerCallable

from orchestrator import Trainable, arguments, catalog
from orchestrator import spec as specs
from orchestrator.errors import SpecError

LINEAR = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 2, "out_features": 3}}


class Composed:
    """What takes objects, functions that make objects, and plain mappings."""

    def __init__(
        self,
        encoder: torch.nn.Module,
        head: torch.nn.Module | None = None,
        optimizer: OptimizerCallable = torch.optim.Adam,
        activation: Callable[[torch.Tensor], torch.Tensor] = torch.relu,
        config: dict[str, Any] | None = None,
        layers: list[torch.nn.Module] | None = None,
    ) -> None:
        self.encoder, self.head, self.optimizer, self.activation = encoder, head, optimizer, activation
        self.config, self.layers = config, layers


class Wrapped(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module, width: int = 1) -> None:
        super().__init__()
        self.inner, self.width = inner, width


def test_an_object_is_made_of_each_anew() -> None:
    given = {
        "encoder": {"class_path": f"{__name__}.Wrapped", "init_args": {"inner": LINEAR}},
        "head": {"class_path": "torch.nn.ReLU"},
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.25}},
        "activation": {"class_path": "torch.nn.Tanh"},
        "config": {"class_path": "torch.nn.ReLU"},
        "layers": [LINEAR, LINEAR],
    }
    first, second = (arguments.call(Composed, given) for _ in range(2))
    assert isinstance(first.encoder.inner, torch.nn.Linear)
    assert first.encoder.inner is not second.encoder.inner
    assert isinstance(first.head, torch.nn.ReLU)
    assert isinstance(first.activation, torch.nn.Tanh)
    assert first.config == {"class_path": "torch.nn.ReLU"}
    assert [type(layer) for layer in first.layers] == [torch.nn.Linear] * 2
    optimizer = first.optimizer(first.encoder.parameters())
    assert (type(optimizer), optimizer.defaults["lr"]) == (torch.optim.SGD, 0.25)


def test_what_the_trainer_takes_is_made_too() -> None:
    stopping = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": "x", "patience": 7}}
    (made,) = arguments.made({"callbacks": [stopping]})["callbacks"]
    assert isinstance(made, EarlyStopping)
    assert made.patience == 7


def test_hyperparameters_reach_into_objects() -> None:
    wrapped = {"class_path": f"{__name__}.Wrapped", "init_args": {"inner": LINEAR}}
    reference = {"model": {"class_path": f"{__name__}.Composed", "init_args": {"encoder": wrapped}}}
    trainable = catalog.load_trainable(reference)
    assert isinstance(trainable, Trainable)
    params = {"model.encoder.width": 5, "model.encoder.init_args.inner.out_features": 4}
    routed = trainable.route(params)["model"]
    found = arguments.call(trainable.model, routed).encoder
    assert (found.width, found.inner.out_features, found.inner.in_features) == (5, 4, 2)
    assert arguments.call(trainable.model, trainable.route({})["model"]).encoder.inner.out_features == 3


def test_so_they_do_where_init_args_are_left_empty() -> None:
    nested = {"inner": {"class_path": "torch.nn.Linear", "init_args": None}}
    given = {"encoder": {"class_path": f"{__name__}.Wrapped", "init_args": nested}}
    trainable = Trainable(model=Composed, model_args=given)
    params = {"model.encoder.inner.in_features": 4, "model.encoder.init_args.inner.init_args.out_features": 5}
    made = arguments.call(Composed, trainable.route(params)["model"]).encoder.inner
    assert (type(made), made.in_features, made.out_features) == (torch.nn.Linear, 4, 5)
    assert nested == {"inner": {"class_path": "torch.nn.Linear", "init_args": None}}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("model.encoder.width", "model.encoder.init_args.width"),
        ("model.encoder.width", "model.encoder"),
        ("activation", "model.activation"),
    ],
)
def test_two_of_which_one_would_overwrite_the_other_are_refused(one: str, other: str) -> None:
    model = {
        "class_path": f"{__name__}.Composed",
        "init_args": {"encoder": {"class_path": f"{__name__}.Wrapped", "init_args": {"inner": LINEAR}}},
    }
    space = {name: {"options": [1, 2]} for name in (one, other)}
    with pytest.raises(SpecError) as raised:
        specs.check({"trainable": {"model": model}, "space": space, "metric": "x", "goal": "minimize"})
    assert list(raised.value.problems) == [
        f"hyperparameters '{one}' and '{other}' both set the same argument; take one of them out"
    ]


def test_what_leads_nowhere_is_said_before_anything_starts() -> None:
    def problems(init_args: dict[str, Any], **more: Any) -> list[str]:
        model = {"class_path": f"{__name__}.Composed", "init_args": init_args}
        with pytest.raises(SpecError) as raised:
            specs.check({"trainable": {"model": model}, "space": {}, "metric": "x", "goal": "minimize", **more})
        return raised.value.problems

    (problem,) = problems({"encoder": {"class_path": f"{__name__}.Wraped"}})
    assert problem.startswith(f"trainable.model.init_args.encoder.class_path: '{__name__}.Wraped': ")
    assert problem.endswith("did you mean 'Wrapped'?")
    wrapped = {"class_path": f"{__name__}.Wrapped", "init_args": {"inner": LINEAR}}
    (problem,) = problems({"encoder": wrapped}, params={"model.encoder.widht": 3})
    assert problem.startswith("model.encoder.init_args: Wrapped takes no 'widht'; did you mean 'width'?")
    (problem,) = problems({"encoder": wrapped}, trainer={"profiler": {"class_path": "nowhere.Profiler"}})
    assert problem.startswith("trainer.profiler.class_path: 'nowhere.Profiler': no module 'nowhere'")
    (problem,) = problems({"encoder": {**wrapped, "init_arg": {}}})
    assert problem.endswith(
        "encoder.init_arg: what is made of a class path has no 'init_arg'; did you mean 'init_args'?"
    )
    stopping = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitr": "x"}}
    (problem,) = problems({"encoder": wrapped}, trainer={"callbacks": [stopping]})
    assert problem.startswith("trainer.callbacks.init_args: EarlyStopping takes no 'monitr'; did you mean 'monitor'?")


def test_packages_that_import_from_their_parts_are_looked_through() -> None:
    def problems(class_path: str, params: dict[str, Any]) -> list[str]:
        model = {
            "class_path": f"{__name__}.Composed",
            "init_args": {"encoder": {"class_path": class_path, "init_args": {}}},
        }
        try:
            specs.check(
                {"trainable": {"model": model}, "space": {}, "metric": "x", "goal": "minimize", "params": params}
            )
        except SpecError as exc:
            return list(exc.problems)
        return []

    assert problems("torch.nn.Linear", {"model.encoder.in_features": 2, "model.encoder.out_features": 3}) == []
    assert problems("torch.nn.LSTM", {"model.encoder.whatever": 2}) == []  # it takes any keywords
    (problem,) = problems("torch.nn.Liner", {})  # by `from torch.nn.modules import *`
    assert problem.endswith("torch/nn/__init__.py defines no 'Liner'; did you mean 'Linear'?")
    (problem,) = problems("torch.nn.Linear", {"model.encoder.out_feature": 3})
    assert problem.startswith("model.encoder.init_args: Linear takes no 'out_feature'; did you mean 'out_features'?")
    (problem,) = problems("torch.optim.SGD", {"model.encoder.lrr": 3})
    assert problem.startswith("model.encoder.init_args: SGD takes no 'lrr'; did you mean 'lr'?")
    (problem,) = problems("torch.nn.ReLU", {"model.encodr.inplace": True})
    assert problem.startswith(
        "hyperparameter 'model.encodr.inplace': Composed takes no 'encodr'; did you mean 'encoder'?"
    )
    (problem,) = problems("torch.nn.ReLU", {"model.head.bias": True})
    assert "'bias' would be of what Composed takes as 'head', which is not given in init_args" in problem
