"""The physical limit: the trials in a bare loop over Lightning's `Trainer.fit`, in one process and with no searcher."""

from __future__ import annotations

import json
import resource
import time

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger

from benchmarks.trials import Stamps, configurations, fit, parser, scratch
from trainables.digits import Digits


def main() -> None:
    """Run the trials and print one JSON object, times in seconds."""
    args = parser(__doc__).parse_args()
    torch.set_num_threads(1)  # what Ray gives a worker of one CPU
    with scratch() as folder:
        data = Digits()
        stamps = Stamps(folder / "stamps")
        began = time.time()
        for number, config in enumerate(configurations(args.trials)):
            trainer = Trainer(
                max_epochs=args.epochs,
                accelerator="cpu",
                logger=WandbLogger(project="bare", save_dir=folder, offline=True),
                callbacks=[stamps, ModelCheckpoint(dirpath=folder / str(number), save_top_k=-1)],
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            fit(trainer, config, data, stamps)
        summary = stamps.summary(began)
    peak_rss_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"yardstick": "bare", **summary, "peak_rss_mib": round(peak_rss_mib)}))


if __name__ == "__main__":
    main()
