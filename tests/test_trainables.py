"""A real sweep of every shipped trainable, on small datasets in the true formats."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PROBES, Sweeps
from doubles import datasets

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
        "tracking.watch_every=2",
    )  # fmt: skip
    assert len({trial["params"]["kernels_2"] for trial in trials}) + len({t["params"]["kernels_1"] for t in trials}) > 2
    folder = served.folder / "results/mnist_convnet"
    runs = list(folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert runs
    assert all(runlog.has_row(run, "gradients/net.0.weight/values") for run in runs)
    assert list(folder.glob("trials/*/model.onnx"))
    printed = served.run("evaluate", "mnist_convnet")
    assert "test/accuracy" in printed


def test_cifar10(served: Sweeps) -> None:
    search(served, "cifar10", "budget.trials=1", "schedule.max_epochs=4", "params.patience=1")
    runs = served.folder / "results/cifar10/wandb"
    assert list(runs.glob("offline-run-*/files/media/images/val/predictions_*.png"))


def test_resnet18_fabric_goes_on_after_a_kill(served: Sweeps) -> None:
    (trial,) = search(served, "resnet18_fabric", "budget.trials=1", "schedule.max_epochs=3", "schedule.scheduler=none")
    assert (trial["state"], trial["epochs"]) == ("COMPLETE", 3)
    trained = (served.folder / "served/epochs-0").read_text().split()
    # Its checkpoints are large and written while training goes on: the second may not have been in place yet.
    assert trained in (["1", "2", "3"], ["1", "2", "2", "3"])
    assert (served.folder / "served/killed-0").exists()


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
