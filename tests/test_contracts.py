"""What holds for every trainable, every space and every sweep that the catalog finds."""

import json
import logging
import pickle
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import optuna
import pytest

from orchestrator import catalog
from orchestrator import spec as specs
from orchestrator.folder import SweepFolder
from orchestrator.ledger import Ledger
from orchestrator.space import Space
from orchestrator.spec import Spec
from orchestrator.trainable import Trainable

SWEEPS = [specs.read(name) for name in catalog.names(catalog.SWEEPS)]
TRAINABLES = list(catalog.names(catalog.TRAINABLES))
SPACES = {
    **{name: catalog.load_space(name) for name in catalog.names(catalog.SPACES)},
    **{f"of sweep {name}": specs.read(name).load_space() for name in catalog.names(catalog.SWEEPS)},
}


def fit(trainable: Trainable, params: dict[str, Any], scratch: Path) -> pl.Trainer:
    """One batch of training and one of validation."""
    routed = trainable.route(params)
    model = trainable.model(**routed["model"])
    data = trainable.data(**routed["data"]) if trainable.data else None
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    trainer = pl.Trainer(
        **routed["trainer"],
        fast_dev_run=True,
        accelerator="cpu",
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        default_root_dir=str(scratch),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Lightning, about loader workers
        trainer.fit(model, datamodule=data)
    return trainer


def test_there_are_some() -> None:
    assert TRAINABLES
    assert SPACES
    assert SWEEPS


@pytest.mark.parametrize("name", TRAINABLES)
class TestTrainables:
    def test_it_says_what_it_is(self, name: str) -> None:
        assert catalog.problem_with_trainable(name) is None
        assert len(catalog.summary(catalog.names(catalog.TRAINABLES)[name])) > 10

    def test_it_trains_with_its_defaults(self, name: str, tmp_path: Path) -> None:
        trainer = fit(catalog.load_trainable(name), {}, tmp_path)
        assert trainer.global_step == 1
        assert trainer.callback_metrics

    def test_it_logs_the_metric_of_every_sweep_of_it(self, name: str, tmp_path: Path) -> None:
        metrics = {spec.metric for spec in SWEEPS if spec.trainable == name}
        assert metrics <= set(fit(catalog.load_trainable(name), {}, tmp_path).callback_metrics)

    def test_it_and_what_it_builds_pickle(self, name: str) -> None:
        trainable = catalog.load_trainable(name)
        assert pickle.loads(pickle.dumps(trainable)) == trainable
        model = trainable.model()
        again = pickle.loads(pickle.dumps(model))
        assert {k: v.shape for k, v in again.state_dict().items()} == {
            k: v.shape for k, v in model.state_dict().items()
        }


@pytest.mark.parametrize("spec", SWEEPS, ids=list(catalog.names(catalog.SWEEPS)))
class TestSweeps:
    def test_its_trainable_takes_a_proposal(self, spec: Spec, tmp_path: Path) -> None:
        given = spec.trainable if isinstance(spec.trainable, str) else spec.trainable.model_dump()
        folder = SweepFolder(str(tmp_path), "x")
        folder.create()
        params = Ledger(folder, spec.model_copy(update={"name": "x"}), create=True).ask().params
        trainer = fit(catalog.load_trainable(given), dict(params), tmp_path / "fit")
        assert spec.metric in trainer.callback_metrics

    def test_it_says_what_it_is(self, spec: Spec) -> None:
        path = next(p for name, p in catalog.names(catalog.SWEEPS).items() if specs.read(name) == spec)
        assert len(catalog.summary(path)) > 10

    def test_it_reads_back(self, spec: Spec) -> None:
        assert Spec.from_yaml(spec.to_yaml()) == spec


@pytest.mark.parametrize("space", SPACES.values(), ids=list(SPACES))
class TestSpaces:
    def test_it_is_plain_data(self, space: Space) -> None:
        assert Space.from_data(json.loads(json.dumps(space.to_data()))) == space
        assert pickle.loads(pickle.dumps(space)) == space

    def test_every_proposal_of_optuna_is_in_it(self, space: Space, tmp_path: Path) -> None:
        folder = SweepFolder(str(tmp_path), "x")
        folder.create()
        data: dict[str, Any] = {"name": "x", "trainable": "x", "space": space.to_data(), "metric": "m",
                                "goal": "minimize", "search": {"sampler": "random", "seed": 1}}  # fmt: skip
        ledger = Ledger(folder, Spec.model_validate(data), create=True)
        for _ in range(10):
            assert space.problems_with(ledger.ask().params) == []
        assert optuna.logging.get_verbosity() == optuna.logging.WARNING

    def test_it_compiles_to_wandb(self, space: Space) -> None:
        parameters = space.to_wandb()
        assert list(parameters) == list(space)
        for entry in parameters.values():
            assert {"values"} == set(entry) or {"value"} == set(entry) or {"min", "max", "distribution"} <= set(entry)
        assert json.loads(json.dumps(parameters)) == parameters
