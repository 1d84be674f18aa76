"""Loops on an attempt of their own, without Ray: what is the same when a trial is interrupted and goes on."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import shutil
import sys
import threading
import types
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import wandb
from doubles import datasets
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import EarlyStopping
from PIL import Image
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import orchestrator.loops.lightning as lightning_loop
from orchestrator import Context, Trainable, TrainFunction, catalog, checkpoint, failures
from orchestrator import spec as specs
from orchestrator.attempt import Attempt
from orchestrator.errors import SpecError, StorageFullError
from orchestrator.folder import SweepFolder
from orchestrator.loops.function import FunctionContext
from orchestrator.messages import Ended, Job, Outcome, Report, Verdict, first_line
from orchestrator.preemption import Preemption
from orchestrator.spec import Spec
from orchestrator.tracker import Tracker
from orchestrator.trainable import AnyTrainable
from trainables.cifar10 import Cifar10, Cifar10Net

pytestmark = pytest.mark.timeout(1200)  # some train a ResNet, or compile, which a busy machine takes minutes for


class Drawing(pl.LightningModule):
    """Everything that a trial could lose when it is interrupted: dropout, noise, momentum, schedules, counters."""

    metric = "val/loss"

    def __init__(self, *, lr: float = 0.01, patience: int = 99) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
        self.rates: list[float] = []

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        noise = random.random() + float(np.random.default_rng(np.random.randint(2**31)).random())
        loss: torch.Tensor = (self.net(batch[0]) - batch[0].sum() * noise).pow(2).mean()
        self.log("train/loss", loss, on_epoch=True, on_step=False)
        self.log("train/lr", self.optimizers().param_groups[0]["lr"], on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch: list[torch.Tensor]) -> None:
        self.log("val/loss", self.net(batch[0]).pow(2).mean())
        self.log("val/constant", 1.0)

    def configure_callbacks(self) -> list[pl.Callback]:
        return [EarlyStopping(monitor="val/constant", patience=self.hparams["patience"])]

    def configure_optimizers(self) -> dict[str, Any]:
        self.foreseen_steps = self.trainer.estimated_stepping_batches
        optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams["lr"], momentum=0.9)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5)}

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.linspace(-1, 1, 64).view(16, 4)), batch_size=4, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.ones(4, 4)), batch_size=4)


class Unvalidated(Drawing):
    """Has no validation; what it reports is of its last step."""

    metric = "train/step"

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        loss = super().training_step(batch)
        self.log("train/step", loss)
        return loss

    def configure_callbacks(self) -> list[pl.Callback]:
        return []

    val_dataloader = validation_step = None  # type: ignore[assignment]


class Hungry(Drawing):
    """Runs out of memory, as a GPU says it, with more than some examples in a batch."""

    tried: ClassVar[list[int]] = []

    def __init__(self, *, batch_size: int = 16, fits: int = 5) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.batch_size = batch_size

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        self.tried.append(len(batch[0]))
        if len(batch[0]) > self.hparams["fits"]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than there is")
        return super().training_step(batch)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(super().train_dataloader().dataset, batch_size=self.batch_size, shuffle=True)


class Patient(Drawing):
    """Brings no callback of its own."""

    def configure_callbacks(self) -> list[pl.Callback]:
        return []


def test_gradients_are_accumulated_and_clipped(tmp_path: Path) -> None:
    norms: list[float] = []

    class Clipped(Drawing):
        def on_before_zero_grad(self, optimizer: Any) -> None:
            grads = [p.grad for p in self.parameters() if p.grad is not None]
            norms.extend([float(torch.cat([grad.flatten() for grad in grads]).norm())] if grads else [])

    arguments = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.01}
    train(tmp_path, Trainable(model=Clipped), go_on, trainer=arguments)
    saved = torch.load(tmp_path / "x/trials/0/epoch-0005.ckpt", weights_only=True)
    assert saved["global_step"] == 5 * 4 / 2
    assert norms
    assert max(norms) == pytest.approx(0.01, rel=1e-3)


class TestLargestBatch:
    """It is found before the trial begins, and is the trial's from then on."""

    largest = {"training": {"batch_size": "largest"}}  # noqa: RUF012

    @pytest.fixture(autouse=True)
    def tried(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """The sizes of all batches."""
        tried: list[int] = []
        monkeypatch.setattr(Hungry, "tried", tried)
        return tried

    def test_a_trial_trains_as_with_that_size_and_goes_on_with_it(self, tmp_path: Path, tried: list[int]) -> None:
        given, _ = train(tmp_path / "given", Trainable(model=Hungry, model_args={"batch_size": 4}), go_on)
        tried.clear()
        found, ended = train(tmp_path / "found", Trainable(model=Hungry), go_on, **self.largest)
        assert ended.outcome is Outcome.COMPLETE
        assert list(dict.fromkeys(tried)) == [1, 2, 4, 8]
        assert curves(found) == curves(given)
        before, _ = train(tmp_path / "cut", Trainable(model=Hungry), stop_at(2), **self.largest)
        tried.clear()
        after, _ = train(tmp_path / "cut", Trainable(model=Hungry), go_on, curve=recorded(before), **self.largest)
        assert set(tried) == {4}
        assert curves(after) == {epoch: curves(given)[epoch] for epoch in (2, 3, 4, 5)}

    def test_the_hyperparameter_is_the_limit(self, tmp_path: Path, tried: list[int]) -> None:
        train(tmp_path, Trainable(model=Hungry), go_on, params={"batch_size": 3}, **self.largest)
        assert list(dict.fromkeys(tried)) == [1, 2]

    def test_all_examples_at_once_may_fit(self, tmp_path: Path, tried: list[int]) -> None:
        train(tmp_path, Trainable(model=Hungry, model_args={"fits": 99}), go_on, **self.largest)
        assert list(dict.fromkeys(tried)) == [1, 2, 4, 8, 16]

    def test_a_trial_of_which_not_one_example_fits_is_out_of_memory(self, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError) as caught:
            train(tmp_path, Trainable(model=Hungry, model_args={"fits": 0}), go_on, **self.largest)
        assert failures.kind(first_line(caught.value)) is Outcome.OUT_OF_MEMORY

    def test_a_module_that_does_not_say_its_batch_size_is_refused(self, tmp_path: Path) -> None:
        def build(*, batch_size: int) -> Drawing:
            return Drawing()

        with pytest.raises(SpecError, match=r"training\.batch_size is 'largest': .*Field batch_size not found"):
            train(tmp_path, Trainable(model=build), go_on, **self.largest)


class Tracked(Patient):
    """Logs as users do, without asking whether there is a run."""

    told: ClassVar[list[bool]] = []

    def on_train_epoch_end(self) -> None:
        self.logger.experiment.log({"touched": self.current_epoch})
        self.logger.log_image("pictures", [torch.rand(3, 4, 4)])
        wandb.log({"direct": wandb.Image(torch.rand(3, 4, 4))})
        self.told.append(wandb.run is self.logger.experiment)


class Noise:
    """Eight small images in place of CIFAR-10."""

    classes = tuple(range(10))

    def __init__(self, **_: Any) -> None:
        images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        self.data = TensorDataset(images, torch.arange(8))

    def prepare_data(self) -> None:
        pass

    def setup(self, stage: str) -> None:
        pass

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.data, batch_size=4, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.data, batch_size=4)


class Calm:
    """A watch that sees nothing."""

    interrupted: Outcome | None = None

    def beat(self) -> None:
        pass

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        yield


@pytest.fixture(autouse=True)
def quiet(recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's advice; and without Ray nobody announces the end of a node."""
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")


def train(
    folder: Path,
    trainable: AnyTrainable,
    verdict: Callable[[Report], Verdict],
    curve: Mapping[int, float] = MappingProxyType({}),
    **more: Any,
) -> tuple[list[Report], Ended]:
    """Train trial 0 of a sweep in a folder; what it reported, and how it ended."""
    spec = Spec.model_validate(
        {"name": "x", "trainable": "x", "space": {}, "metric": "val/loss", "goal": "minimize",
         "storage": str(folder), "schedule": {"max_epochs": 5}, "tracking": {"mode": "disabled"},
         "checkpoints": {"keep": "all"}, **more}
    )  # fmt: skip
    sweep = SweepFolder(spec.storage, "x")
    scratch = folder / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    reports: list[Report] = []

    def say(method: str, *args: Any) -> Any:
        if method == "report":
            named = args[0].checkpoint
            assert named is None or (folder / "x" / named).is_file()  # what a report names is there
            reports.append(args[0])
            return verdict(args[0])
        return None

    pl.seed_everything(7, workers=True, verbose=False)
    attempt = Attempt(
        job=Job(number=0, params={}, seed=7, curve=curve), spec=spec, folder=sweep, rank=0, world_size=1, slot="s",
        tracker=Tracker(spec, sweep, 0, print), watch=Calm(), say=say, notify=print, scratch=scratch,  # type: ignore[arg-type]
    )  # fmt: skip
    importlib.import_module(trainable.loop).Loop().fit(trainable, attempt)
    ended = attempt.finish()
    return [*reports, *([ended.report] if ended.report else [])], ended


def go_on(_: Report) -> Verdict:
    return Verdict.CONTINUE


def stop_at(epoch: int) -> Callable[[Report], Verdict]:
    return lambda report: Verdict.INTERRUPT if report.epoch == epoch else Verdict.CONTINUE


def recorded(reports: list[Report]) -> dict[int, float]:
    """What the ledger knows of a trial that is handed out again."""
    return {report.epoch: report.value for report in reports}


def curves(reports: list[Report]) -> dict[int, dict[str, float]]:
    return {report.epoch: dict(report.metrics) for report in reports}


class TestGoingOn:
    def test_an_interrupted_trial_gives_the_curve_of_one_that_was_not(self, tmp_path: Path) -> None:
        whole, _ = train(tmp_path / "whole", Trainable(model=Drawing), go_on)
        assert sorted(curves(whole)) == [1, 2, 3, 4, 5]
        for epoch in (1, 3):
            folder = tmp_path / f"cut-{epoch}"
            before, ended = train(folder, Trainable(model=Drawing), stop_at(epoch))
            assert ended.outcome is Outcome.INTERRUPTED
            after, ended = train(folder, Trainable(model=Drawing), go_on, curve=recorded(before))
            assert ended.outcome is Outcome.COMPLETE
            assert after[0] == before[-1]  # the last epoch again: the sweep may not have recorded it
            assert curves([*before, *after]) == curves(whole)

    @pytest.mark.parametrize("loader_workers", [0, 2])
    def test_so_does_one_whose_images_are_augmented(
        self, tmp_path: Path, loader_workers: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
        datasets.write_cifar10(tmp_path / "served", batch=8, test=1)
        datasets.write_mnist(tmp_path / "served", train=1, test=1)
        drawn = {"crop_padding": 4, "flip": True, "loader_workers": loader_workers, "held_out": 0.2, "batch_size": 8}
        trainable = Trainable(model=Cifar10Net, data=Cifar10, model_args={"channels": 4}, data_args=drawn)
        with datasets.in_place(tmp_path / "served"):
            whole, _ = train(tmp_path / "whole", trainable, go_on)
            before, ended = train(tmp_path / "cut", trainable, stop_at(3))
            assert ended.outcome is Outcome.INTERRUPTED
            after, _ = train(tmp_path / "cut", trainable, go_on, curve=recorded(before))
            plain, _ = train(tmp_path / "plain", replace(trainable, data_args={**drawn, "flip": False}), go_on)
        assert sorted(curves(whole)) == [1, 2, 3, 4, 5]
        assert curves([*before, *after]) == curves(whole)
        assert curves(plain) != curves(whole)

    def test_what_the_ledger_lacks_is_reported_from_the_checkpoint(self, tmp_path: Path) -> None:
        before, _ = train(tmp_path, Trainable(model=Drawing), stop_at(3))
        after, _ = train(tmp_path, Trainable(model=Drawing), go_on, curve={1: before[0].value})
        assert [(report.epoch, report.value) for report in after[:2]] == [(r.epoch, r.value) for r in before[1:]]
        assert [report.epoch for report in after] == [2, 3, 4, 5]
        stopped, ended = train(tmp_path / "again", Trainable(model=Drawing), stop_at(3))
        stopped, ended = train(tmp_path / "again", Trainable(model=Drawing), stop_at(2))
        assert ([report.epoch for report in stopped], ended.outcome) == ([1, 2], Outcome.INTERRUPTED)

    def test_a_checkpoint_can_be_loaded_by_whoever_trusts_no_pickle(self, tmp_path: Path) -> None:
        (report, *_), _ = train(tmp_path, Trainable(model=Drawing), go_on)
        path = tmp_path / "x" / str(report.checkpoint)
        assert torch.load(path, weights_only=True)["orchestrator"]["curve"] == {1: report.value}
        assert Drawing.load_from_checkpoint(path).hparams["lr"] == 0.01

    def test_early_stopping_counts_on(self, tmp_path: Path) -> None:
        impatient = Trainable(model=Drawing, model_args={"patience": 2})
        whole, ended = train(tmp_path / "whole", impatient, go_on)
        assert (len(whole), ended.outcome) == (3, Outcome.COMPLETE)
        train(tmp_path / "cut", impatient, stop_at(2))
        after, ended = train(tmp_path / "cut", impatient, go_on)
        assert ([report.epoch for report in after], ended.outcome) == ([1, 2, 3], Outcome.COMPLETE)

    def test_callbacks_of_the_spec_are_the_trials_too(self, tmp_path: Path) -> None:
        stopping = {
            "class_path": "lightning.pytorch.callbacks.EarlyStopping",
            "init_args": {"monitor": "val/constant", "patience": 1},
        }
        reports, ended = train(tmp_path, Trainable(model=Patient), go_on, trainer={"callbacks": [stopping]})
        assert ([report.epoch for report in reports], ended.outcome) == ([1, 2], Outcome.COMPLETE)

    @pytest.mark.parametrize(  # epochs have 4 batches
        ("module", "steps", "cuts"),
        [(Drawing, 3, (1, 4)), (Drawing, 6, (1, 2)), (Unvalidated, 3, (1, 4)), (Unvalidated, 4, (2,))],
    )
    def test_so_does_one_that_reports_every_few_steps(
        self, tmp_path: Path, module: type[Drawing], steps: int, cuts: tuple[int, ...]
    ) -> None:
        counted = {"training": {"report_every_steps": steps}, "metric": module.metric}
        whole, ended = train(tmp_path / "whole", Trainable(model=module), go_on, **counted)
        assert ([report.epoch for report in whole], ended.outcome) == ([1, 2, 3, 4, 5], Outcome.COMPLETE)
        assert len({report.value for report in whole}) == 5
        for cut in cuts:
            folder = tmp_path / f"cut-{cut}"
            before, ended = train(folder, Trainable(model=module), stop_at(cut), **counted)
            assert ([report.epoch for report in before], ended.outcome) == ([*range(1, cut + 1)], Outcome.INTERRUPTED)
            after, ended = train(folder, Trainable(model=module), go_on, **counted)
            assert ended.outcome is Outcome.COMPLETE
            assert {report.epoch: report.value for report in [*before, *after]} == {
                report.epoch: report.value for report in whole
            }

    @pytest.mark.parametrize(("more", "steps"), [({}, (2, 4, 7)), ({"training": {"report_every_steps": 3}}, (2, 3, 4))])
    def test_so_does_one_whose_node_is_taken_away(
        self, tmp_path: Path, more: dict[str, Any], steps: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole, _ = train(tmp_path / "whole", Trainable(model=Drawing), go_on, **more)
        for step in steps:
            asked = iter(range(1, 99))
            with monkeypatch.context() as patch:
                patch.setattr(Preemption, "is_announced", lambda _, asked=asked, step=step: next(asked) >= step)
                before, ended = train(tmp_path / str(step), Trainable(model=Drawing), go_on, **more)
            assert ended.outcome is Outcome.MOVED
            again, _ = train(tmp_path / str(step), Trainable(model=Drawing), stop_at(3), **more)
            asked = iter(range(1, 99))
            with monkeypatch.context() as patch:
                patch.setattr(Preemption, "is_announced", lambda _, asked=asked: next(asked) >= 2)
                once_more, ended = train(tmp_path / str(step), Trainable(model=Drawing), go_on, **more)
            assert ended.outcome is Outcome.MOVED
            after, ended = train(tmp_path / str(step), Trainable(model=Drawing), go_on, **more)
            assert ended.outcome is Outcome.COMPLETE
            assert {report.epoch: report.value for report in [*before, *again, *once_more, *after]} == {
                report.epoch: report.value for report in whole
            }

    def test_what_an_epoch_cost_is_known_where_it_was_trained_in_one_piece(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = iter(range(1, 99))
        with monkeypatch.context() as patch:
            patch.setattr(Preemption, "is_announced", lambda _: next(asked) >= 6)  # in its second epoch, of 4 batches
            (first,), ended = train(tmp_path, Trainable(model=Drawing), go_on)
        assert ended.outcome is Outcome.MOVED
        again, second, *others = train(tmp_path, Trainable(model=Drawing), go_on)[0]
        assert again == first
        assert second.epoch_s is None
        assert all(report.epoch_s is not None and report.epoch_s > 0 for report in (first, *others))

    def test_a_schedule_can_ask_how_long_a_trial_is(self, tmp_path: Path) -> None:
        built: list[Drawing] = []

        def build() -> Drawing:
            built.append(Drawing())
            return built[-1]

        for more in ({}, {"training": {"report_every_steps": 6}}, {"trainer": {"accumulate_grad_batches": 2}}):
            train(tmp_path / str(len(built)), Trainable(model=build), go_on, **more)
        assert [module.foreseen_steps for module in built] == [5 * 4, 5 * 6, 5 * 2]

    def test_the_same_seed_gives_the_same_curve(self, tmp_path: Path) -> None:
        first, second = (train(tmp_path / name, Trainable(model=Drawing), go_on)[0] for name in ("first", "second"))
        assert curves(first) == curves(second)

    def test_loggers_are_there_where_no_run_is_kept(self, tmp_path: Path) -> None:
        for name in ("first", "second"):
            _, ended = train(tmp_path / name, Trainable(model=Tracked), go_on)
            assert ended.outcome is Outcome.COMPLETE
        assert Tracked.told == [True] * 10
        assert not list(tmp_path.glob("**/offline-run-*"))


class Asking(pl.Callback):
    """Asks the run for an artifact, as users do; `told` is what it says."""

    told: ClassVar[list[str]] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        with pytest.raises(TypeError) as refused:
            wandb.use_artifact("team/project/data:latest")
        self.told.append(str(refused.value))


class TestTracked:
    """With a run on disk."""

    @pytest.fixture(autouse=True)
    def alone(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        environment = dict(os.environ)
        monkeypatch.setenv("WANDB_CONSOLE", "off")
        yield
        wandb.teardown()
        os.environ.clear()
        os.environ.update(environment)

    def test_predictions_are_a_table_and_pictures(self, tmp_path: Path) -> None:
        _, ended = train(
            tmp_path, catalog.load_trainable("digits"), stop_at(1),
            tracking={"mode": "offline", "project": "p", "predictions": 3},
            trainer={"callbacks": [{"class_path": f"{__name__}.Asking"}]},
        )  # fmt: skip
        assert ended.outcome is Outcome.INTERRUPTED
        (run,) = (tmp_path / "x" / "wandb").glob("offline-run-*")
        (table,) = run.glob("files/media/table/predictions/table*.json")
        saved = json.loads(table.read_text())
        assert (saved["columns"], len(saved["data"])) == (["target", "prediction", "share"], 3)
        assert {type(cell) for row in saved["data"] for cell in row} == {int, float}
        pictures = [Image.open(path) for path in run.glob("files/media/images/predictions/images*.png")]
        assert [picture.getextrema() for picture in pictures] == [(0, 255)] * 3
        assert Asking.told == ["Cannot use artifact when in offline mode."], "as docs/wandb.md says"
        assert not (run / "files" / "output.log").exists(), "as WANDB_CONSOLE says"

    def test_what_has_no_predictions_trains_all_the_same(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        class Paired(Drawing):  # it has no `forward`
            def val_dataloader(self) -> DataLoader[Any]:
                return DataLoader(TensorDataset(torch.ones(4, 4), torch.ones(4)), batch_size=4)

        tracking = {"mode": "offline", "project": "p", "predictions": 3}
        reports, _ = train(tmp_path, Trainable(model=Paired), go_on, tracking=tracking)
        assert len(reports) == 5
        assert capsys.readouterr().out.count("nothing is shown of this module's") == 1


class Shuffled(pl.LightningDataModule):
    """Draws a split from the global random state, as users' data modules do."""

    def setup(self, stage: str) -> None:
        self.split = torch.utils.data.random_split(range(100), [80, 20])[1].indices  # type: ignore[arg-type]

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.ones(4, 1)))


def test_a_split_belongs_to_the_sweep_and_not_to_a_slots_first_trial() -> None:
    splits, draws = [], []
    for seed in (1, 2):
        data = lightning_loop._PreparedData().of(
            Shuffled, {}, Spec.model_validate({"trainable": "x", "space": {}, "metric": "m", "goal": "minimize",
                                               "search": {"seed": 3}})
        )  # fmt: skip
        assert isinstance(data, Shuffled)
        torch.manual_seed(seed)
        data.setup("fit")
        splits.append(data.split)
        draws.append(torch.rand(1).item())
        torch.manual_seed(seed)
        assert torch.rand(1).item() == draws[-1]  # the trial draws what it would have drawn
    assert splits[0] == splits[1]


PREPARE_MODEL, PREPARE_DATA_LOADER = FunctionContext.prepare_model, FunctionContext.prepare_data_loader


class Line:
    """A small Fabric loop."""

    kinds: ClassVar[list[type]] = []
    """What the model was set up as."""

    @classmethod
    def learn(cls, context: Context) -> None:
        fabric = context.fabric()
        network = torch.nn.Linear(4, 1)
        model, optimizer = fabric.setup(network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9))
        cls.kinds.append(type(model._forward_module))
        state = {"model": model, "optimizer": optimizer}
        if context.start_from:
            fabric.load(context.start_from, state)
        for epoch in context.epochs():
            loss = (model(torch.ones(2, 4)) - 1).pow(2).mean()
            fabric.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            context.report({"val/loss": loss.item()}, epoch=epoch, checkpoint=state)


class TestFunctions:
    """Those that are shipped, on one worker that Ray has not started."""

    @pytest.fixture(autouse=True)
    def alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("orchestrator.loops.function._device", lambda: torch.device("cpu"))
        for method in ("prepare_model", "prepare_data_loader"):
            monkeypatch.setattr(FunctionContext, method, lambda _, given: given)

    @pytest.mark.parametrize("name", ["plain_torch", "resnet18_fabric"])
    def test_an_interrupted_trial_gives_the_curve_of_one_that_was_not(
        self, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("trainables.resnet18_fabric.Cifar10", Noise)
        trainable = catalog.load_trainable(name)
        whole, _ = train(tmp_path / "whole", trainable, go_on)
        assert sorted(curves(whole)) == [1, 2, 3, 4, 5]
        before, ended = train(tmp_path / "cut", trainable, stop_at(2))
        assert ended.outcome is Outcome.INTERRUPTED
        after, ended = train(tmp_path / "cut", trainable, go_on, curve=recorded(before))
        assert ended.outcome is Outcome.COMPLETE
        assert after[0] == before[-1]
        assert curves([*before, *after]) == curves(whole)

    def test_fabric_shares_a_model_out_on_cpus_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("orchestrator.loops.function.RayLightningEnvironment", LightningEnvironment)
        monkeypatch.setattr(Line, "kinds", [])
        whole, _ = train(tmp_path / "whole", TrainFunction(train=Line.learn), go_on)
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
        try:
            shared = {"resources": {"strategy": "fsdp"}}
            before, _ = train(tmp_path / "cut", TrainFunction(train=Line.learn), stop_at(2), **shared)
            after, _ = train(tmp_path / "cut", TrainFunction(train=Line.learn), go_on, curve=recorded(before), **shared)
        finally:
            torch.distributed.destroy_process_group()
        assert [kind.__name__ for kind in Line.kinds] == ["Linear", *["FullyShardedDataParallel"] * 2]
        assert {r.epoch: r.value for r in [*before, *after]} == pytest.approx({r.epoch: r.value for r in whole})

    def test_so_does_a_loop_of_plain_torch_and_saves_it_whole(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(FunctionContext, "prepare_model", PREPARE_MODEL)
        monkeypatch.setattr("ray.train.torch.prepare_model", lambda model, **_: model)
        trainable, shared = catalog.load_trainable("plain_torch"), {"resources": {"strategy": "fsdp"}}
        whole, _ = train(tmp_path / "whole", trainable, go_on)
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
        try:
            before, _ = train(tmp_path / "cut", trainable, stop_at(2), **shared)
            after, _ = train(tmp_path / "cut", trainable, go_on, curve=recorded(before), **shared)
        finally:
            torch.distributed.destroy_process_group()
        assert recorded([*before, *after]) == pytest.approx(recorded(whole))
        alone, of_several = (
            torch.load(tmp_path / name / "x/trials/0/epoch-0005.ckpt", weights_only=True)["network"]
            for name in ("whole", "cut")
        )
        assert {name: t.shape for name, t in of_several.items()} == {name: t.shape for name, t in alone.items()}

    def test_a_strategy_that_a_loop_of_plain_torch_cannot_have_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(FunctionContext, "prepare_model", PREPARE_MODEL)
        more = {"resources": {"strategy": "lightning.pytorch.strategies:DDPStrategy"}}
        with pytest.raises(SpecError, match=r":DDPStrategy', a strategy of Lightning's, .* or context\.fabric\(\)"):
            train(tmp_path, catalog.load_trainable("plain_torch"), go_on, **more)

    @pytest.mark.parametrize("name", ["plain_torch", "resnet18_fabric"])
    def test_a_trial_can_begin_with_another_ones_weights(
        self, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("trainables.resnet18_fabric.Cifar10", Noise)
        trainable, at_rest = catalog.load_trainable(name), {"params": {"lr": 0.0}, "schedule": {"max_epochs": 1}}
        donor, _ = train(tmp_path / "donor", trainable, stop_at(2))
        given = tmp_path / "second" / "x" / "start_from.ckpt"
        given.parent.mkdir(parents=True)
        shutil.copyfile(tmp_path / "donor" / "x" / str(donor[-1].checkpoint), given)
        (first,), _ = train(tmp_path / "second", trainable, go_on, start_from=str(given), **at_rest)
        (fresh,), _ = train(tmp_path / "fresh", trainable, go_on, **at_rest)
        assert abs(first.value - donor[-1].value) < abs(fresh.value - donor[-1].value)

    @pytest.mark.parametrize("name", ["plain_torch", "resnet18_fabric", Trainable(model=Drawing)])
    def test_precision_is_as_asked(
        self, tmp_path: Path, name: str | Trainable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("trainables.resnet18_fabric.Cifar10", Noise)
        trainable = catalog.load_trainable(name) if isinstance(name, str) else name
        seen: set[torch.dtype] = set()

        def look(module: torch.nn.Module, _: Any, output: torch.Tensor) -> None:
            if isinstance(module, torch.nn.Linear):
                seen.add(output.dtype)

        hook = torch.nn.modules.module.register_module_forward_hook(look)
        try:
            for precision, dtype in (("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)):
                seen.clear()
                more = {"resources": {"precision": precision}, "schedule": {"max_epochs": 1}}
                (report,), _ = train(tmp_path / precision, trainable, go_on, **more)
                assert dtype in seen
                saved = torch.load(tmp_path / precision / "x" / str(report.checkpoint), weights_only=True)
                weights = next(saved[key] for key in ("state_dict", "network", "model") if key in saved)
                assert {t.dtype for t in weights.values() if t.is_floating_point()} == {torch.float32}
        finally:
            hook.remove()

    def test_in_halves_the_loss_of_a_plain_loop_is_scaled_and_its_scale_goes_on(self, tmp_path: Path) -> None:
        trainable, half = catalog.load_trainable("plain_torch"), {"resources": {"precision": "16-mixed"}}
        whole, _ = train(tmp_path / "whole", trainable, go_on, **half)
        assert min(recorded(whole).values()) < 2.0  # chance is 2.3
        before, _ = train(tmp_path / "cut", trainable, stop_at(2), **half)
        after, _ = train(tmp_path / "cut", trainable, go_on, curve=recorded(before), **half)
        assert curves([*before, *after]) == curves(whole)
        saved = torch.load(tmp_path / "whole/x" / str(whole[-1].checkpoint), weights_only=True)
        assert saved["scaler"]["scale"] > 1
        assert saved["scaler"]["_growth_tracker"] > 0

    def test_a_precision_that_a_function_ignores_or_cannot_have_is_refused(self, tmp_path: Path) -> None:
        deaf = TrainFunction(train=lambda context: context.report({"val/loss": 1.0}, epoch=1, checkpoint={}))
        with pytest.raises(SpecError, match=r"it uses neither context\.autocast\(\) nor context\.fabric\(\)"):
            train(tmp_path / "deaf", deaf, go_on, resources={"precision": "bf16-mixed"})

        def unscaled(context: Context) -> None:
            with context.autocast():
                context.report({"val/loss": 1.0}, epoch=1, checkpoint={})

        with pytest.raises(SpecError, match=r"uses neither context\.scaler nor context\.fabric\(\)"):
            train(tmp_path / "unscaled", TrainFunction(train=unscaled), go_on, resources={"precision": "16-mixed"})
        with pytest.raises(SpecError, match=r"which a loop of plain torch does not have: use context\.fabric\(\)"):
            train(tmp_path / "half", catalog.load_trainable("plain_torch"), go_on, resources={"precision": "16-true"})

    @pytest.mark.parametrize("more", [{"resources": {"strategy": "fsdp"}}, {"training": {"compile": True}}])
    def test_what_is_asked_of_the_model_and_ignored_is_refused(self, tmp_path: Path, more: dict[str, Any]) -> None:
        deaf = TrainFunction(train=lambda context: context.report({"val/loss": 1.0}, epoch=1, checkpoint={}))
        with pytest.raises(SpecError, match=r"neither context\.prepare_model\(\) nor context\.fabric\(\)"):
            train(tmp_path, deaf, go_on, **more)

    def test_a_function_that_does_not_ask_for_them_is_refused(self, tmp_path: Path) -> None:
        given = tmp_path / "x" / "start_from.ckpt"
        given.parent.mkdir()
        torch.save({}, given)
        deaf = TrainFunction(train=lambda context: context.report({"val/loss": 1.0}, epoch=1, checkpoint={}))
        with pytest.raises(SpecError, match=r"does not ask for them \(context\.weights\)"):
            train(tmp_path, deaf, go_on, start_from=str(given))

    def test_what_is_for_lightnings_trainer_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError) as refused:
            train(
                tmp_path, catalog.load_trainable("plain_torch"), go_on, trainer={"gradient_clip_val": 3},
                training={"report_every_steps": 3},
            )  # fmt: skip
        steps, argument = refused.value.problems
        assert steps.startswith("training.report_every_steps is 3, but a training function says itself")
        assert argument == "trainer.gradient_clip_val: a training function has no Lightning Trainer; leave it out"

    def test_a_metric_by_the_name_of_what_the_run_counts_by_is_refused(self, tmp_path: Path) -> None:
        counting = TrainFunction(
            train=lambda context: context.report({"val/loss": 1.0, "epoch": 1}, epoch=1, checkpoint={})
        )
        with pytest.raises(SpecError, match=r"'epoch' is what the run counts these by, .* under another name"):
            train(tmp_path, counting, go_on)

    def test_an_epoch_that_does_not_count_is_not_in_the_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows: list[int | None] = []
        monkeypatch.setattr(Tracker, "log", lambda _, metrics, *, step=None: rows.append(step))

        def learn(context: Context) -> None:
            for epoch in range(1, 6):
                context.report({"val/loss": 1.0 / epoch}, epoch=epoch, checkpoint={})

        reports, ended = train(tmp_path, TrainFunction(train=learn), stop_at(2), schedule={"scheduler": "none"})
        assert ([report.epoch for report in reports], ended.outcome) == ([1, 2], Outcome.INTERRUPTED)
        assert rows == [1, 2]

    def test_part_of_a_model_is_refused_as_a_checkpoint(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(FunctionContext, "prepare_model", PREPARE_MODEL)
        monkeypatch.setattr("ray.train.torch.prepare_model", lambda model, **_: model)

        def learn(context: Context) -> None:
            network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
            context.prepare_model(network)
            context.report({"val/loss": 1.0}, epoch=1, checkpoint={"nested": {"network": network.state_dict()}})

        # Two workers, of which one is there: collectives do nothing.
        torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
        try:
            with pytest.raises(SpecError, match=r"only this worker's part of the model: .* trainables/plain_torch\.py"):
                train(tmp_path, TrainFunction(train=learn), go_on, resources={"strategy": "fsdp"})
        finally:
            torch.distributed.destroy_process_group()

    def test_an_order_of_data_that_cannot_be_shared_out_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ray.train.torch.prepare_data_loader", lambda loader, *, add_dist_sampler: loader)
        attempt: Any = types.SimpleNamespace(
            job=Job(number=0, params={}, seed=7, curve={}), rank=1, world_size=2, start_from=None, tracker=None,
            spec=Spec.model_validate({"trainable": "x", "space": {}, "metric": "m", "goal": "minimize"}),
        )  # fmt: skip
        data = TensorDataset(torch.arange(20))

        def prepared(**more: Any) -> DataLoader[Any]:
            return PREPARE_DATA_LOADER(FunctionContext(attempt), DataLoader(data, **more))

        in_order = [x for (batch,) in prepared(batch_size=3) for x in batch.tolist()]
        assert in_order == list(range(1, 20, 2))
        assert len({x for (batch,) in prepared(shuffle=True) for x in batch.tolist()}) == 10
        odd: list[Any] = [
            RandomSampler(data, replacement=True),
            RandomSampler(data, num_samples=5),
            WeightedRandomSampler([1.0] * 20, 20),
            SubsetRandomSampler(range(20)),
        ]
        for given in (
            *({"sampler": each} for each in odd),
            {"batch_sampler": BatchSampler(odd[0], 5, drop_last=False)},
        ):
            (by,) = given.values()
            with pytest.raises(SpecError, match=f"draws by a {type(by).__name__}: pass a DistributedSampler of your"):
                prepared(**given)
        own = DistributedSampler(data, num_replicas=2, rank=0)
        assert prepared(sampler=own).sampler is own
        batches = BatchSampler(own, 5, drop_last=False)
        assert prepared(batch_sampler=batches).batch_sampler is batches


COUNTING = '''
"""Another kind of loop."""

from typing import ClassVar

import torch

from orchestrator.context import RECORD
from orchestrator.trainable import AnyTrainable


class Counting(AnyTrainable):
    loop: ClassVar[str] = "counting"

    def route(self, params):
        return {"count": dict(params)}


class Loop:
    def fit(self, trainable, attempt):
        by, count = trainable.route(attempt.params)["count"]["by"], 0.0
        attempt.begin()
        if attempt.start_from is not None:
            saved = torch.load(attempt.start_from, weights_only=True)
            count = saved["count"]
            attempt.resume(saved)
        while not attempt.stopped:
            attempt.beat()
            count += by
            epoch = round(count / by)
            state = lambda path: attempt.take({"count": count, RECORD: attempt.record})
            attempt.report({"val/loss": count}, epoch=epoch, save=state, final=epoch == 5)


TRAINABLE = Counting()
'''


def test_another_kind_of_loop_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "counting.py").write_text(COUNTING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    specs.check({"trainable": "counting:TRAINABLE", "space": {"by": {"options": [1, 2]}}, "metric": "val/loss",
                 "goal": "minimize"})  # fmt: skip
    trainable = catalog.load_trainable("counting:TRAINABLE")
    before, _ = train(tmp_path, trainable, stop_at(2), params={"by": 0.5})
    after, ended = train(tmp_path, trainable, go_on, curve=recorded(before), params={"by": 0.5})
    assert recorded([*before, *after]) == {1: 0.5, 2: 1.0, 3: 1.5, 4: 2.0, 5: 2.5}
    assert ended.outcome is Outcome.COMPLETE
    monkeypatch.delitem(sys.modules, "counting")


@pytest.mark.slow
@pytest.mark.skipif(
    not shutil.which(os.environ.get("CXX", "c++")), reason="torch.compile on a CPU needs a C++ compiler"
)
@pytest.mark.parametrize(
    ("trainable", "weights"),
    [
        (Trainable(model=Drawing), "state_dict"),
        (catalog.load_trainable("plain_torch"), "network"),
        (TrainFunction(train=Line.learn), "model"),
    ],
)
def test_a_compiled_model_trains_and_its_checkpoint_is_that_of_one_that_is_not(
    tmp_path: Path, trainable: AnyTrainable, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    monkeypatch.setattr("orchestrator.loops.function._device", lambda: torch.device("cpu"))
    monkeypatch.setattr("ray.train.torch.prepare_model", lambda model, **_: model)
    monkeypatch.setattr("ray.train.torch.prepare_data_loader", lambda loader, **_: loader)
    monkeypatch.setattr(Line, "kinds", [])
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its own
        reports, ended = train(tmp_path / "compiled", trainable, go_on, training={"compile": True})
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert ([report.epoch for report in reports], ended.outcome) == ([1, 2, 3, 4, 5], Outcome.COMPLETE)
    train(tmp_path / "plain", trainable, stop_at(1))
    with_it, without = (
        torch.load(tmp_path / name / "x/trials/0/epoch-0001.ckpt", weights_only=True) for name in ("compiled", "plain")
    )
    assert with_it[weights].keys() == without[weights].keys()


class TestWaiting:
    """For the verdict on an epoch, which may be other than to go on at a scheduler's rungs alone."""

    @pytest.mark.parametrize(("scheduler", "waits"), [("none", False), ("asha", False), ("median", True)])
    def test_a_trial_waits_where_it_may_be_stopped(self, tmp_path: Path, scheduler: str, waits: bool) -> None:
        told, steps = threading.Event(), []

        class Stepping(Drawing):
            def on_train_batch_start(self, *args: Any) -> None:
                steps.append(self.current_epoch)
                if not waits and self.current_epoch == 2:
                    told.set()

        def verdict(report: Report) -> Verdict:
            if report.epoch == 2:
                assert waits or told.wait(60)  # it trains on, and only then hears of it
                assert not waits or 2 not in steps
            return Verdict.INTERRUPT if report.epoch == 2 else Verdict.CONTINUE

        reports, ended = train(tmp_path, Trainable(model=Stepping), verdict, schedule={"scheduler": scheduler})
        assert [report.epoch for report in reports] == [1, 2]
        assert ended.outcome is Outcome.INTERRUPTED
        assert (2 in steps) is not waits
        assert 3 not in steps
        assert steps.count(0) == steps.count(1) == 4

    def test_an_epoch_after_the_one_it_is_stopped_at_is_not_validated(self, tmp_path: Path) -> None:
        told, validated = threading.Event(), []

        class Validated(Drawing):
            def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
                if (self.current_epoch, batch_idx) == (2, 3):  # the last before its validation
                    told.set()

            def on_validation_epoch_start(self) -> None:
                validated.append(self.current_epoch)

        def verdict(report: Report) -> Verdict:
            assert report.epoch == 1 or told.wait(60)
            return Verdict.INTERRUPT if report.epoch == 2 else Verdict.CONTINUE

        train(tmp_path, Trainable(model=Validated), verdict, schedule={"scheduler": "none"})
        assert validated == [0, 1]

    @pytest.mark.parametrize(
        ("training", "batches"),  # of four an epoch, by epoch; a report is an epoch, or three batches
        [({}, [4, 4, 4, 4]), ({"report_every_steps": 3}, [4, 4, 4])],
    )
    def test_at_a_rung_it_trains_no_step_too_many(
        self, tmp_path: Path, training: dict[str, Any], batches: list[int]
    ) -> None:
        trained = []

        class Stepping(Drawing):
            def on_train_batch_start(self, *args: Any) -> None:
                trained.append(self.current_epoch)

        def verdict(report: Report) -> Verdict:
            return Verdict.PRUNE if report.epoch == 4 else Verdict.CONTINUE

        schedule = {"scheduler": "asha", "max_epochs": 9}
        reports, ended = train(tmp_path, Trainable(model=Stepping), verdict, schedule=schedule, training=training)
        assert ([report.epoch for report in reports], ended.outcome) == ([1, 2, 3, 4], Outcome.PRUNED)
        assert [trained.count(epoch) for epoch in sorted(set(trained))] == batches


class TestLargeCheckpoints:
    """They are written while training goes on."""

    @pytest.fixture
    def held(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
        """Every checkpoint counts as large; writing one waits for this."""
        released = threading.Event()
        write = checkpoint.Writer._write
        monkeypatch.setattr(checkpoint, "LARGE", 0)
        monkeypatch.setattr(
            checkpoint.Writer, "_write", lambda *args, **more: (released.wait(60), write(*args, **more))[1]
        )
        yield released
        released.set()

    def test_training_goes_on_and_the_curve_is_the_same(
        self, tmp_path: Path, held: threading.Event, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ended_epochs, synced = [], []
        monkeypatch.setattr("orchestrator.folder._sync", synced.append)

        class Telling(Drawing):
            def on_train_batch_end(self, *args: Any) -> None:
                if self.global_step == 5:  # in the second epoch, and the first one's checkpoint is not written
                    ended_epochs.append(len(list((tmp_path / "large").rglob("epoch-*.ckpt"))))
                    held.set()

        large, ended = train(tmp_path / "large", Trainable(model=Telling), go_on)
        assert ended_epochs == [0]
        assert len(synced) == 5 * 2  # each file, and its name
        assert [report.epoch for report in large] == [1, 2, 3, 4, 5]
        assert ended.outcome is Outcome.COMPLETE
        whole = {path.name for path in (tmp_path / "large").rglob("*.ckpt")}
        assert whole == {f"epoch-{epoch:04d}.ckpt" for epoch in range(1, 6)}
        small, _ = train(tmp_path / "small", Trainable(model=Drawing), go_on)
        assert curves(large) == curves(small)
        again = torch.load(tmp_path / "large" / "x" / str(large[1].checkpoint), weights_only=True)
        same = torch.load(tmp_path / "small" / "x" / str(small[1].checkpoint), weights_only=True)
        assert all(torch.equal(again["state_dict"][name], same["state_dict"][name]) for name in same["state_dict"])

    def test_what_is_no_tensor_is_written_as_it_was_too(self, tmp_path: Path, held: threading.Event) -> None:
        def learn(context: Context) -> None:
            weight, counts, seen = torch.zeros(2), np.zeros(2), deque([0])
            for epoch in context.epochs():
                for state in (weight, counts):
                    state += 1
                seen.append(epoch)
                checkpoint = {"weight": weight, "tied": [weight], "counts": counts, "seen": seen}
                context.report({"val/loss": 1.0 / epoch}, epoch=epoch, checkpoint=checkpoint)
                if epoch == 1:
                    counts += 7
                    seen.clear()
                    held.set()

        (first, *_), _ = train(tmp_path, TrainFunction(train=learn), go_on, schedule={"scheduler": "none"})
        saved = torch.load(tmp_path / "x" / str(first.checkpoint), weights_only=False)
        assert (saved["weight"].tolist(), saved["counts"].tolist(), list(saved["seen"])) == ([1, 1], [1, 1], [0, 1])
        assert saved["tied"][0] is saved["weight"]

    def test_a_verdict_that_comes_late_is_obeyed(self, tmp_path: Path, held: threading.Event) -> None:
        held.set()
        reports, ended = train(
            tmp_path, Trainable(model=Drawing), lambda report: Verdict.PRUNE if report.epoch == 2 else Verdict.CONTINUE
        )
        assert [report.epoch for report in reports] == [1, 2]
        assert ended.outcome is Outcome.PRUNED

    def test_a_disk_that_is_full_fails_no_trial(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*args: Any, **more: Any) -> None:
            raise StorageFullError("no space left")

        monkeypatch.setattr(checkpoint, "LARGE", 0)
        monkeypatch.setattr(checkpoint.Writer, "_write", full)
        reports, ended = train(tmp_path, Trainable(model=Drawing), go_on)
        assert ended.outcome is Outcome.COMPLETE
        assert {report.checkpoint for report in reports} == {None}
        assert {report.best_checkpoint for report in reports} == {None}
