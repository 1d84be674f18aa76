"""What holds for every trainable, every space and every sweep that the catalog finds."""

import inspect
import json
import logging
import pickle
import random
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import optuna
import pytest
import torch
from doubles import datasets
from doubles.context import Alone
from torchvision.transforms import v2

from orchestrator import catalog, sources, wandb_yaml
from orchestrator import spec as specs
from orchestrator.folder import SweepFolder
from orchestrator.ledger import Ledger
from orchestrator.messages import Ended, Outcome, Report
from orchestrator.prior import Normal
from orchestrator.space import Choice, Float, Space
from orchestrator.spec import Spec
from orchestrator.trainable import AnyTrainable, Trainable, TrainFunction
from trainables.cifar10 import Cifar10, Cifar10Net
from trainables.mnist_convnet import ConvNet

SWEEPS = [specs.read(name) for name in catalog.names(catalog.SWEEPS)]
TRAINABLES = list(catalog.names(catalog.TRAINABLES))
SPACES = {
    **{
        each.reference: sources.load_space(each.reference)
        for all_of in sources.names().values()
        for each in all_of.values()
    },
    **{f"of sweep {name}": specs.read(name).load_space() for name in catalog.names(catalog.SWEEPS)},
}


@pytest.fixture(scope="module", autouse=True)
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Small files in place of the datasets that would be downloaded, and a cache of their own for them."""
    folder = tmp_path_factory.mktemp("served")
    datasets.write_mnist(folder)
    datasets.write_cifar10(folder, batch=12, test=20)
    with pytest.MonkeyPatch.context() as patch, datasets.in_place(folder):
        patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))
        yield


def train(trainable: AnyTrainable, params: dict[str, Any], scratch: Path) -> set[str]:
    """Train for a batch, or an epoch, and then test; the names of the metrics."""
    routed = trainable.route(params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Lightning, about loader workers
        if isinstance(trainable, TrainFunction):
            context = Alone(scratch)
            trainable.train(context, **routed["train"])
            assert len(context.reports) == 1
            return {*context.reports[0], *(trainable.test(context, **routed["train"]) if trainable.test else ())}
        assert isinstance(trainable, Trainable)
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
        trainer.fit(model, datamodule=data)
        assert trainer.global_step == 1
        metrics = set(trainer.callback_metrics)
        trainer.test(model, datamodule=data, verbose=False)
        return metrics | set(trainer.callback_metrics)


def test_there_are_some() -> None:
    assert TRAINABLES
    assert SPACES
    assert SWEEPS


@pytest.mark.parametrize("name", TRAINABLES)
class TestTrainables:
    def test_it_says_what_it_is(self, name: str) -> None:
        assert catalog.problem_with_trainable(name) is None
        assert len(catalog.summary(catalog.names(catalog.TRAINABLES)[name])) > 10

    def test_it_trains_and_tests_with_its_defaults(self, name: str, tmp_path: Path) -> None:
        metrics = train(catalog.load_trainable(name), {}, tmp_path)
        assert any(metric.startswith("test/") for metric in metrics)
        assert {spec.metric for spec in SWEEPS if spec.trainable == name} <= metrics

    def test_its_hyperparameters_are_saved_with_it(self, name: str) -> None:
        trainable = catalog.load_trainable(name)
        for build in (trainable.model, trainable.data) if isinstance(trainable, Trainable) else ():
            assert build is not None
            assert set(build().hparams) == set(inspect.signature(build).parameters)

    def test_a_sweep_of_it_is_shipped(self, name: str) -> None:
        assert name in [spec.trainable for spec in SWEEPS]

    def test_it_and_what_it_builds_pickle(self, name: str) -> None:
        trainable = catalog.load_trainable(name)
        assert pickle.loads(pickle.dumps(trainable)) == trainable
        if isinstance(trainable, Trainable):
            model = trainable.model()
            again = pickle.loads(pickle.dumps(model))
            assert {k: v.shape for k, v in again.state_dict().items()} == {
                k: v.shape for k, v in model.state_dict().items()
            }


def test_every_size_of_mnists_convnet_is_a_hyperparameter() -> None:
    net = ConvNet(kernels_1=3, kernels_2=5, kernel_size_1=7, kernel_size_2=3, classes=4)
    assert [tuple(weights.shape) for weights in net.parameters() if weights.dim() == 4] == [(3, 1, 7, 7), (5, 3, 3, 3)]
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 4)


def test_cifar10s_network_follows_its_data(tmp_path: Path) -> None:
    class Small(Cifar10):
        def __init__(self) -> None:
            super().__init__()
            self.transform = v2.Compose([self.transform, v2.Resize(24)])

    net = Cifar10Net(channels=4)
    trainer = pl.Trainer(max_steps=1, accelerator="cpu", logger=False, enable_progress_bar=False,
                         enable_model_summary=False, default_root_dir=str(tmp_path))  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Lightning, about loader workers
        trainer.fit(net, datamodule=Small())
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    again = Cifar10Net.load_from_checkpoint(tmp_path / "saved.ckpt")
    assert again.hparams["input_shape"] == (3, 24, 24)
    assert again(torch.zeros(2, 3, 24, 24)).shape == (2, 10)


class TestAugmentation:
    """CIFAR-10's training images are changed whenever they are read; the others stay as they are."""

    @staticmethod
    def images(**arguments: Any) -> dict[str, list[torch.Tensor]]:
        """The images (C, H, W) of every split, in their order."""
        data = Cifar10(**arguments)
        data.prepare_data()
        data.setup("fit")
        data.setup("test")
        splits: dict[str, Any] = {"train": data.train, "val": data.val, "test": data.test}
        return {split: [examples[k][0] for k in range(len(examples))] for split, examples in splits.items()}

    def test_validation_and_test_images_stay_as_they_are(self) -> None:
        plain, changed = self.images(), self.images(crop_padding=8, flip=True)
        for split in ("val", "test"):
            assert torch.equal(torch.stack(changed[split]), torch.stack(plain[split]))

    def test_crops_are_of_the_padded_image(self) -> None:
        plain, cropped = self.images()["train"], self.images(crop_padding=2)["train"]
        found = set()
        for x, y in zip(plain, cropped, strict=True):
            padded = torch.nn.functional.pad(x, (2, 2, 2, 2))
            windows = padded.unfold(1, 32, 1).unfold(2, 32, 1)  # (C, 5, 5, 32, 32)
            (place,) = (windows == y[:, None, None]).all(dim=(0, 3, 4)).nonzero().tolist()
            found.add(tuple(place))
        assert {place for place, _ in found} == {place for _, place in found} == {0, 1, 2, 3, 4}

    def test_flips_are_of_about_every_other_image(self) -> None:
        plain, flipped = self.images()["train"], self.images(flip=True)["train"]
        sides = [(torch.equal(y, x), torch.equal(y, x.flip(2))) for x, y in zip(plain, flipped, strict=True)]
        assert {(True, False), (False, True)} == set(sides)
        assert 0.25 < sum(mirrored for _, mirrored in sides) / len(sides) < 0.75

    def test_without_any_nothing_is_changed_or_drawn(self) -> None:
        before = torch.random.get_rng_state()
        plain = self.images()["train"]
        assert torch.equal(torch.stack(plain), torch.stack(self.images()["train"]))
        assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("spec", SWEEPS, ids=list(catalog.names(catalog.SWEEPS)))
class TestSweeps:
    def test_its_trainable_takes_a_proposal(self, spec: Spec, tmp_path: Path) -> None:
        given = spec.trainable if isinstance(spec.trainable, str) else spec.trainable.model_dump()
        folder = SweepFolder(str(tmp_path), "x")
        folder.create()
        params = Ledger(folder, spec.model_copy(update={"name": "x"}), create=True).ask().params
        (tmp_path / "fit").mkdir()
        assert spec.metric in train(catalog.load_trainable(given), dict(params), tmp_path / "fit")

    def test_it_says_what_it_is(self, spec: Spec) -> None:
        path = next(p for name, p in catalog.names(catalog.SWEEPS).items() if specs.read(name) == spec)
        assert len(catalog.summary(path)) > 10

    def test_it_reads_back(self, spec: Spec) -> None:
        assert Spec.from_yaml(spec.to_yaml()) == spec


def test_every_shipped_space_is_composed_by_a_shipped_sweep() -> None:
    origins = [line.strip().partition("@")[0] for spec in SWEEPS for line in spec.load_space().origin]
    assert [name for name in sources.names() if name not in origins] == []


def proposals(space: Space, storage: Path, *, sampler: str, trials: int) -> list[Mapping[str, Any]]:
    """The first configurations of a sweep whose trials all end with the same value."""
    folder = SweepFolder(str(storage), sampler)
    folder.create()
    data: dict[str, Any] = {"name": sampler, "trainable": "x", "space": space.to_data(), "metric": "m",
                            "goal": "minimize", "search": {"sampler": sampler, "seed": 1}}  # fmt: skip
    ledger = Ledger(folder, Spec.model_validate(data), create=True)
    found = []
    for _ in range(trials):
        record = ledger.ask()
        found.append(record.params)
        report = Report(number=record.number, epoch=1, value=1.0, metrics={}, best_epoch=1, checkpoint=None,
                        best_checkpoint=None)  # fmt: skip
        ledger.end(Ended(number=record.number, outcome=Outcome.COMPLETE, report=report))
    return found


@pytest.mark.parametrize("sampler", ["curves", "tpe", "cmaes", "qmc", "random"])
class TestSamplers:
    def test_none_proposes_what_breaks_a_constraint(self, sampler: str, tmp_path: Path) -> None:
        # A fiftieth of the square fulfils it.
        space = Space({"a": Float(0, 1), "b": Float(0, 1), "hidden": Choice([[8], [8, 8]])}, ["a + b <= 0.2"])
        found = proposals(space, tmp_path, sampler=sampler, trials=15)
        assert [problem for params in found for problem in space.problems_with(params)] == []

    def test_priors_are_where_it_begins(self, sampler: str, tmp_path: Path) -> None:
        space = Space({"a": Float(0, 1, prior=Normal(0.2, 0.02)), "b": Choice([[1], [2]], prior=[1, 0])})
        found = proposals(space, tmp_path, sampler=sampler, trials=8)
        believed = [0.1 <= params["a"] <= 0.3 and params["b"] == [1] for params in found]  # five standard deviations
        assert all(believed) is (sampler != "qmc")  # a sequence covers the space, whatever is believed


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

    def test_its_defaults_are_tried_first(self, space: Space, tmp_path: Path) -> None:
        first = proposals(space, tmp_path, sampler="tpe", trials=1)[0]
        default = space.default_params()
        assert {name: first[name] for name in default} == default

    def test_it_compiles_to_wandb(self, space: Space) -> None:
        parameters = wandb_yaml.to_wandb(space)
        assert json.loads(json.dumps(parameters)) == parameters
        assert set(wandb_yaml.from_wandb(parameters)) == set(space)

    def test_every_sample_is_in_it(self, space: Space) -> None:
        rng = random.Random(0)
        assert [problem for _ in range(50) for problem in space.problems_with(space.sample(rng))] == []
