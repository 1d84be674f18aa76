"""Yardsticks for the orchestrator: the same trials by other means, run as `python -m benchmarks.NAME`."""

import os
import time

STARTED = time.time()
"""When this process began, short of the interpreter's own start: nothing heavy has been imported yet."""

# Nothing leaves the machine. Both ray and wandb read these when they are imported, which is later than here.
os.environ.update(
    RAY_AUTH_MODE="disabled",
    RAY_USAGE_STATS_ENABLED="0",
    # Without a dashboard of its own, Ray Train's PlacementGroupCleaner asks whichever one it finds on the machine,
    # hears that its controller is not known there, and removes a living trial's workers. Here nobody answers.
    RAY_API_SERVER_ADDRESS="http://127.0.0.1:9",
    WANDB_MODE="offline",
    WANDB_SILENT="true",
    WANDB_ERROR_REPORTING="false",
)
