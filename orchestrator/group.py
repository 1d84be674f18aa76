"""A worker group's run, with nothing that a sweep has no use for: no requests, no helpers (Ray Train)."""

from __future__ import annotations

from typing import Any

from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

# Each has a process of its own beside every slot, which takes 120 MiB, and seconds of CPU for its imports when a group
# starts: one for Ray's own datasets, of which there are none, and one that frees what a dead group had reserved, which
# the sweep does (`cluster.free_forgotten`).
LEFT_OUT = (DatasetsCallback, PlacementGroupCleanerCallback)


class Group(DataParallelTrainer):
    """What `TorchTrainer` is without torch, which that loads where slots are: 4 s on 2 cores, 280 MiB a slot.

    What is overridden is private; tests count the processes of a slot, and the nodes that are kept.
    """

    def _create_default_callbacks(self) -> list[Any]:
        return [each for each in super()._create_default_callbacks() if not isinstance(each, LEFT_OUT)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        policy = _AsksForNothing(self.scaling_config)
        return super()._initialize_and_run_controller(**arguments | {"scaling_policy": policy})


class _AsksForNothing(FixedScalingPolicy):
    """A placement group that waits is a demand already, which ends with it.

    Ray's own policy besides asks that the cluster have as much as the workers, for as long as they live and, where
    nobody takes it back, three minutes longer: idle nodes are kept for what busy ones do (2.60,
    `TrainAutoscalingCoordinatorClient`).
    """

    def after_controller_start(self, train_run_context: Any) -> None:
        """Nothing is asked for."""

    def _maybe_send_resource_request(self) -> None:
        pass
