"""A real sweep of every shipped trainable, on small datasets in the true formats."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PROBES, Sweeps
from doubles import datasets
from PIL import Image

from orchestrator import runlog

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

TESTS = Path(__file__).parent


@pytest.fixture
def served(sweeps: Sweeps) -> Iterator[Sweeps]:
    """Sweeps of a user whose datasets come from a server on this machine."""
    folder = sweeps.folder / "served"
    datasets.write_mnist(folder)
    datasets.write_cifar10(folder)
    (sweeps.folder / "small_data.py").write_text((PROBES / "small_data.py").read_text())
    (sweeps.folder / "doubles").symlink_to(TESTS / "doubles")
    with datasets.serving(folder) as address:
        (folder / "address").write_text(address)
        yield sweeps


def search(sweeps: Sweeps, name: str, *overrides: str) -> list[dict[str, Any]]:
    """Run a shipped sweep on the small files; its trials."""
    sweeps.run(
        "search", name, f"name={name}", f"trainable=small_data:{name.upper()}", "search.seed=0",
        "tracking.mode=offline", f"params.data_dir={sweeps.folder / 'data'}", "resources.concurrency=1", *overrides,
    )  # fmt: skip
    results = sweeps.results(name)
    assert results["status"] == "finished"
    assert [trial["error"] for trial in results["trials"]] == [None] * len(results["trials"]), sweeps.logs()
    return list(results["trials"])


def test_mlp(served: Sweeps) -> None:
    trials = search(
        served, "mlp", "budget.trials=2", "schedule.max_epochs=3", "schedule.scheduler=none",
        "training.report_every_steps=5",
    )  # fmt: skip
    assert [trial["epochs"] for trial in trials] == [3, 3]  # of five steps each, wherever epochs of the data end
    assert max(trial["value"] for trial in trials) > 0.2


def test_mnist_convnet(served: Sweeps) -> None:
    trials = search(
        served, "mnist_convnet", "budget.trials=2", "schedule.max_epochs=2", "schedule.scheduler=none",
        "tracking.watch_every=2", "trainer.log_every_n_steps=1", "params.batch_size=50",
    )  # fmt: skip
    assert len({trial["params"]["kernels_2"] for trial in trials}) + len({t["params"]["kernels_1"] for t in trials}) > 2
    folder = served.folder / "results/mnist_convnet"
    runs = list(folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert runs
    assert all(runlog.has_row(run, "gradients/net.0.weight/values") for run in runs)
    for run in runs:
        axes = {record.metric.name: record.metric.step_metric for _, record in runlog._parsed(run)}
        assert axes["train/loss"] == "train/examples"
        assert list(runlog.values(run, "train/examples")) == [50, 100, 150, 200, 220, 270, 320, 370, 420, 440]
    assert list(folder.glob("trials/*/model.onnx"))
    printed = served.run("evaluate", "mnist_convnet")
    assert "test/accuracy" in printed


def test_cifar10(served: Sweeps) -> None:
    trials = search(
        served, "cifar10", "search.sampler=grid", "space={lr: {options: [0.0, 0.003]}}", "schedule.scheduler=none",
        "schedule.max_epochs=3", "params.patience=1", "params.channels=16", "params.flip=true",
        "budget.trials=3",
    )  # fmt: skip
    assert served.results("cifar10")["end"] == "every configuration of the space is known after 2 of 3 trials"
    assert [(trial["state"], trial["epochs"]) for trial in trials] == [("COMPLETE", 2), ("COMPLETE", 3)]  # one learns
    runs = list((served.folder / "results/cifar10/wandb").glob("offline-run-*/run-*.wandb"))
    assert len(runs) == 2
    for run in runs:
        shown = runlog.summary([run])["val/predictions"]
        assert all(re.fullmatch("[a-z]+, taken for [a-z]+", caption) for caption in shown["captions"])
        assert len(shown["captions"]) == len(shown["filenames"]) == 8
        assert len(set(shown["filenames"])) >= len({caption.partition(",")[0] for caption in shown["captions"]}) > 2
        for name in set(shown["filenames"]):
            with Image.open(run.parent / "files" / name) as picture:
                darkest, brightest = picture.convert("L").getextrema()
            assert darkest < 60 < 180 < brightest  # a band of light in the dark, as tests/doubles/datasets.py writes it
    assert "test/accuracy" in served.run("evaluate", "cifar10")  # on the held-out images, which no trial has read


def test_resnet18_fabric_goes_on_after_a_kill(served: Sweeps) -> None:
    (trial,) = search(served, "resnet18_fabric", "budget.trials=1", "schedule.max_epochs=3", "schedule.scheduler=none")
    assert (trial["state"], trial["epochs"]) == ("COMPLETE", 3)
    trained = (served.folder / "served/epochs-0").read_text().split()
    # Its checkpoints are large and written while training goes on: the second may not have been in place yet.
    assert trained in (["1", "2", "3"], ["1", "2", "2", "3"])
    assert (served.folder / "served/killed-0").exists()
    runs = list((served.folder / "results/resnet18_fabric/wandb").glob("offline-run-*/run-*.wandb"))
    for epoch in range(3):  # what was reported is in W&B without a line of the function's own
        assert any(runlog.has_row(run, "val/accuracy", epoch=epoch) for run in runs)
    assert any(runlog.has_row(run, "train/loss") for run in runs)  # by Fabric's own `log_dict`


OWN = """
trainable:
  model:
    class_path: own.Net
    init_args:
      backbone: {class_path: torch.nn.Linear, init_args: {in_features: 4, out_features: 8}}
      optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.02, momentum: 0.9}}
  data:
    class_path: own.Points
space:
  dropout: {options: [0.5]}
  model.backbone.out_features: {options: [8, 16]}
metric: val/loss
goal: minimize
search: {sampler: grid, seed: 0}
schedule: {scheduler: none, max_epochs: 4}
resources: {workers: 2, concurrency: 1}
tracking: {mode: offline}
"""


def test_own_classes_killed_and_gone_on_with_give_the_curve_of_a_replay(sweeps: Sweeps) -> None:
    (sweeps.folder / "own.py").write_text((PROBES / "own.py").read_text())
    (sweeps.folder / "own.yaml").write_text(OWN)
    sweeps.run("search", "own.yaml", "name=own")
    trials = sweeps.results("own")["trials"]
    assert [(trial["state"], trial["epochs"], trial["error"]) for trial in trials] == [("COMPLETE", 4, None)] * 2
    assert (sweeps.folder / "killed").exists()
    for trial in trials:
        saved = torch.load(trial["checkpoint"], weights_only=True)
        width = trial["params"]["model.backbone.out_features"]
        assert saved["state_dict"]["net.0.weight"].shape == (width, 4)
        assert len(saved["orchestrator"]["random"]) == 2
    # Every rank's random numbers, dropout's masks and the order of the data are what they would have been.
    assert "val/loss is the same in every epoch" in sweeps.run("replay", "own", "0")


def test_plain_torch_with_two_workers(sweeps: Sweeps) -> None:
    sweeps.run(
        "search", "plain_torch", "name=plain", "budget.trials=3", "schedule.max_epochs=3", "tracking.mode=offline",
        "search.seed=0", "training.deterministic=true", "isolation=process",
    )  # fmt: skip
    results = sweeps.results("plain")
    assert [trial["error"] for trial in results["trials"]] == [None] * 3
    assert results["best"]["value"] < 1.5
    replayed = sweeps.run("replay", "plain", str(results["best"]["number"]))
    assert "val/loss is the same in every epoch" in replayed
    tested = sweeps.run("evaluate", "plain", "--seeds", "2")
    assert all(name in tested for name in ("test/loss ", "test/accuracy/mean", "test/accuracy/std"))
