"""The documented way: a function trainable that starts a new `TorchTrainer` run for every trial.

After https://docs.ray.io/en/latest/train/user-guides/hyperparameter-optimization.html, with Lightning, Optuna, ASHA
and Weights & Biases as their own guides there add them.
"""

from __future__ import annotations

import json
import time
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger
from ray import tune
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, RayTrainReportCallback, prepare_trainer
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from benchmarks.trials import DROPOUT, LR, Stamps, configurations, fit, parser, scratch
from trainables.digits import Digits


def train_fn(loop: dict[str, Any]) -> None:
    """What every worker of a trial runs."""
    folder, rank = loop["folder"], ray.train.get_context().get_world_rank()
    stamps = Stamps(folder / "stamps")
    trainer = Trainer(
        max_epochs=loop["epochs"],
        accelerator="cpu",
        devices="auto",
        strategy=RayDDPStrategy(),
        plugins=[RayLightningEnvironment()],
        logger=WandbLogger(project="recipe", save_dir=folder, offline=True) if rank == 0 else False,
        callbacks=[stamps, RayTrainReportCallback()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    fit(prepare_trainer(trainer), loop["config"], Digits(), stamps)


def driver_fn(config: dict[str, Any], *, args: Namespace, folder: Path) -> None:
    """What a trial runs: a `TorchTrainer` run of its own."""
    TorchTrainer(
        train_fn,
        train_loop_config={"config": config, "epochs": args.epochs, "folder": folder},
        scaling_config=ray.train.ScalingConfig(num_workers=args.workers),
        run_config=ray.train.RunConfig(
            name=f"train-{tune.get_context().get_trial_id()}",
            storage_path=str(folder),
            callbacks=[TuneReportCallback()],
        ),
    ).fit()


def sweep(args: Namespace, folder: Path) -> None:
    """Run the trials, one at a time."""
    # ASHA hears every report, and never has reason to stop a trial: each is to do the same work.
    rung = args.epochs + 1
    tune.Tuner(
        partial(driver_fn, args=args, folder=folder),
        param_space={"lr": tune.loguniform(*LR), "dropout": tune.uniform(*DROPOUT)},
        tune_config=tune.TuneConfig(
            metric="val/accuracy",
            mode="max",
            search_alg=OptunaSearch(points_to_evaluate=configurations(args.trials)),
            scheduler=ASHAScheduler(grace_period=rung, max_t=rung),
            num_samples=args.trials,
            max_concurrent_trials=1,
        ),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder), verbose=0),
    ).fit()


def main() -> None:
    """Run the trials and print one JSON object, times in seconds."""
    options = parser(__doc__)
    options.add_argument("--workers", type=int, default=1, help="per trial, of one CPU each")
    args = options.parse_args()
    with scratch() as folder:
        # A trial's own actor takes a CPU besides its workers'.
        ray.init("local", num_cpus=args.workers + 1, include_dashboard=False, _temp_dir=str(folder))
        began = time.time()
        sweep(args, folder)
        ray.shutdown()
        summary = Stamps(folder / "stamps").summary(began)
    print(json.dumps({"yardstick": "recipe", "workers": args.workers, **summary}))


if __name__ == "__main__":
    main()
