"""The Ray cluster a sweep runs on: the one `RAY_ADDRESS` names, or one of its own on this machine (ray)."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from orchestrator.capacity import HEAD
from orchestrator.errors import SweepError

# Read by Ray when it is imported, or by the processes it starts.
ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # a dead worker is noticed that much sooner
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # prints belong to the trial's W&B run
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # 60 by default: a busy laptop takes longer to import torch
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths in a user's module mean what they mean in their shell
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune prints nothing at verbosity 0 without it
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger is the record
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial's end brings no metric of its own
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the sweep has its own
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # Tune's experiment state is not what a sweep is resumed from
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "130",  # a slot may need LEAVE_TIMEOUT_S to close a run
}


def prepare_environment() -> None:
    """Set what Ray reads from the environment; before the first `import ray`."""
    os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})
    if not is_given():
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # this machine does not announce its end
    # Unset, heads and clients decide by themselves, and not alike (field notes on ray 2.60): a cluster of our own is
    # on this machine only and has no authentication; for any other, the user's setting or token decides.
    told = os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
    token = told or Path("~/.ray/auth_token").expanduser().exists()
    mode = "token" if is_given() and token else "disabled"
    os.environ.setdefault("RAY_AUTH_MODE", mode)


def nodes() -> list[Mapping[str, float]]:
    """What each node offers that the cluster can have, autoscaling included; starts nothing on this machine.

    Raises:
        SweepError: `RAY_ADDRESS` names a cluster that cannot be reached.
    """
    prepare_environment()
    if not is_given():
        return [_machine()]
    with connected():
        import ray
        from ray._private.state import state

        now: list[Mapping[str, float]] = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        config = state.get_cluster_config()
        # `max_count` counts those that are up already; 0 for a list of hosts, whose resources nobody knows beforehand.
        groups = config.node_group_configs if config else ()
        most: list[Mapping[str, float]] = [dict(group.resources) for group in groups for _ in range(group.max_count)]
        most += [node for node in now if HEAD in node]  # of the head there are none to come
        return max(now, most, key=lambda nodes: sum(node.get("CPU", 0.0) for node in nodes))


def free() -> dict[str, Mapping[str, float]]:
    """What is free now on each node of the connected cluster that is to stay, by the node's id."""
    from ray._private.state import available_resources_per_node, state

    going = state.get_draining_nodes()
    return {node_id: have for node_id, have in available_resources_per_node().items() if node_id not in going}


@contextmanager
def connected() -> Iterator[None]:
    """Connect to the cluster, or start one on this machine; it ends with this process.

    Raises:
        SweepError: the cluster cannot be reached or started.
    """
    prepare_environment()
    import ray

    if ray.is_initialized():
        yield
        return
    try:
        if is_given():
            ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False, logging_level=logging.ERROR)
        else:
            _start()
    except Exception as exc:  # what ray.init raises is often just that: Exception
        where = f"RAY_ADDRESS={os.environ['RAY_ADDRESS']}" if is_given() else "this machine"
        raise SweepError(f"no Ray at {where}: {exc}") from exc
    try:
        yield
    finally:
        ray.shutdown()


def is_given() -> bool:
    """Whether the user named a cluster."""
    return bool(os.environ.get("RAY_ADDRESS"))


def _start() -> None:
    """Start a Ray on this machine; once more where it takes longer than Ray itself waits, as on a busy machine."""
    import ray

    have = _machine()
    for last in (False, True):
        # Ray Train's helpers look for *a* Ray on this machine and take the newest; this one must be theirs, or they
        # ask it about trials of another sweep, are told of none, and free what those have reserved.
        port = free_port()
        os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
        try:
            ray.init(
                address="local",
                num_cpus=int(have["CPU"]),
                num_gpus=int(have["GPU"]),
                resources={HEAD: 1},
                include_dashboard=True,  # its State API frees what dead trials had reserved
                dashboard_port=port,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except Exception as exc:
            ray.shutdown()
            if last or "timed out during startup" not in str(exc):
                raise
        else:
            return


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _machine() -> dict[str, float]:
    """This machine's CPUs, as its cgroup allows, and GPUs."""
    from ray._private.accelerators import get_accelerator_manager_for_resource
    from ray._private.utils import get_num_cpus

    manager = get_accelerator_manager_for_resource("GPU")
    gpus = manager.get_current_node_num_accelerators()
    visible = manager.get_current_process_visible_accelerator_ids()  # CUDA_VISIBLE_DEVICES; None where it is not set
    if visible is not None:
        gpus = min(gpus, len(visible))
    return {"CPU": float(get_num_cpus()), "GPU": float(gpus), HEAD: 1.0}
