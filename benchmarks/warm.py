"""The orchestrator itself: the trials as a sweep, through `python -m orchestrator.search`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks import STARTED
from benchmarks.trials import DROPOUT, LR, Stamps, parser, scratch
from orchestrator import Trainable
from trainables.digits import Digits, DigitsNet

STAMPS = "BENCHMARK_STAMPS"


class StampedNet(DigitsNet):
    """The same module; it writes down when its fit starts and ends, and when it has a metric."""

    def on_fit_start(self) -> None:
        """The fit starts."""
        self._stamp("start")

    def on_validation_epoch_end(self) -> None:
        """A metric is there."""
        self._stamp("metric")

    def on_fit_end(self) -> None:
        """The fit ends."""
        self._stamp("end")

    def _stamp(self, moment: str) -> None:
        if self.trainer.is_global_zero:
            Stamps(Path(os.environ[STAMPS])).add(moment)


TRAINABLE = Trainable(model=StampedNet, data=Digits)


def main() -> None:
    """Run the trials and print one JSON object, times in seconds."""
    options = parser(__doc__)
    options.add_argument("--workers", type=int, default=1, help="per trial, of one CPU each")
    args = options.parse_args()
    with scratch() as folder:
        os.environ[STAMPS] = str(folder / "stamps")
        space = {
            "lr": {"type": "float", "low": LR[0], "high": LR[1], "log": True},
            "dropout": {"type": "float", "low": DROPOUT[0], "high": DROPOUT[1]},
        }
        command = [
            *(sys.executable, "-m", "orchestrator.search", "trainable=benchmarks.warm:TRAINABLE"),
            *("metric=val/accuracy", "goal=maximize", "schedule.scheduler=none", "search.sampler=random"),
            *(f"space={json.dumps(space)}", f"storage={folder}", "tracking.mode=offline"),
            *(f"budget.trials={args.trials}", f"schedule.max_epochs={args.epochs}"),
            *(f"resources.workers={args.workers}", "resources.concurrency=1"),
        ]
        environment = {name: value for name, value in os.environ.items() if name != "RAY_API_SERVER_ADDRESS"}
        # A short folder for Ray: the paths of its sockets may have 107 characters.
        subprocess.run(command, check=True, stdout=sys.stderr, env=environment | {"RAY_TMPDIR": "/tmp"})
        summary = Stamps(folder / "stamps").summary(STARTED)
    print(json.dumps({"yardstick": "warm", "workers": args.workers, **summary}))


if __name__ == "__main__":
    main()
