"""The Ray cluster a sweep runs on: the one `RAY_ADDRESS` names, or one of its own on this machine (ray)."""

from __future__ import annotations

import functools
import io
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import yaml

from orchestrator.capacity import HEAD
from orchestrator.errors import SweepError
from orchestrator.messages import first_line

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

# How long a cluster may take to answer at all.
KNOCK_S = 10.0
# How long the autoscaler minds what it was asked for, unless that is repeated.
ASKED_S = 60.0
# Where `ray up` leaves, on the head, what it tells the autoscaler there.
BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")


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

        now: list[Mapping[str, float]] = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        most = _at_most(_autoscaling()) if _is_head() else []
        most += [node for node in now if HEAD in node]  # of the head there are none to come
        return max(now, most, key=lambda nodes: sum(node.get("CPU", 0.0) for node in nodes))


def problem_with(config: Mapping[str, Any]) -> str | None:
    """Why `ray up` would not take what a cluster's file says; None where it would."""
    import jsonschema  # type: ignore[import-untyped]  # Ray's own means
    from ray.autoscaler._private.util import prepare_config, validate_config

    logging.getLogger("ray.autoscaler").setLevel(logging.WARNING)  # what it fills in is said by `ray up`
    try:
        validate_config(prepare_config(dict(config)))
    except jsonschema.ValidationError as exc:
        return f"{exc.json_path}: {exc.message}" if exc.path else str(exc.message)
    except Exception as exc:  # noqa: BLE001 - whatever Ray makes of it
        return first_line(exc)
    return None


def _is_head() -> bool:
    """Whether this process is on the connected cluster's head, which alone knows what the autoscaler was told."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    return any(node["NodeID"] == here and "node:__internal_head__" in node["Resources"] for node in ray.nodes())


@functools.cache
def _autoscaling() -> Mapping[str, Any]:
    """What the head's autoscaler was told, in the form of a cluster file; empty where nobody says.

    Ray has a place for it (`state.get_cluster_config`), and nothing in 2.60 that fills it.
    """
    if name := os.environ.get("RAY_CLUSTER_NAME"):  # KubeRay sets it in every pod, and the head's may ask
        from ray.autoscaler._private.kuberay.autoscaling_config import AutoscalingConfigProducer

        try:
            return dict(AutoscalingConfigProducer(name, os.environ.get("RAY_CLUSTER_NAMESPACE", "default"))())
        except OSError as exc:  # those of `requests` are
            logging.getLogger(__name__).warning("Kubernetes does not say what the cluster can have: %s", exc)
            return {}
    file = BOOTSTRAP.expanduser()
    return yaml.safe_load(file.read_text()) or {} if file.is_file() else {}


def _at_most(config: Mapping[str, Any]) -> list[Mapping[str, float]]:
    """What each node offers that the autoscaler may start, those that are up included; nothing where it is not known
    before they are, as of a list of hosts."""
    kinds: Mapping[str, Any] = config.get("available_node_types", {})
    workers = [kind for name, kind in kinds.items() if name != config["head_node_type"] and kind.get("resources")]
    nodes = [kind["resources"] for kind in workers for _ in range(kind.get("max_workers", config["max_workers"]))]
    return nodes[: config.get("max_workers", 0)]


def free() -> dict[str, Mapping[str, float]]:
    """What is free now on each node of the connected cluster that is to stay, by the node's id."""
    from ray._private.state import available_resources_per_node, state

    going = state.get_draining_nodes()
    return {node_id: have for node_id, have in available_resources_per_node().items() if node_id not in going}


def ask_for(worker: Mapping[str, float], workers: int) -> None:
    """Ask the autoscaler that the cluster have room for so many, of so much each, in use or not; to be repeated.

    By Ray Train's own way: `ray.autoscaler.sdk` would ask for them for ever, where the sweep is killed.
    """
    import ray
    from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator as ray_data

    coordinator = ray_data.get_or_create_autoscaling_coordinator()
    who = f"sweep-{ray.get_runtime_context().get_job_id()}"
    if workers:
        asked = coordinator.request_resources.remote(
            requester_id=who,
            resources=[dict(worker)] * workers,
            expire_after_s=ASKED_S,
            priority=ray_data.ResourceRequestPriority.HIGH,
        )
    else:
        asked = coordinator.cancel_request.remote(who)
    ray.get(asked, timeout=KNOCK_S)


def _reservations() -> Iterator[Any]:
    """Every placement group that was not removed, as GCS has it."""
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData as Group

    for group in map(Group.FromString, state._connect_and_get_accessor().get_placement_group_table()):
        if group.state != Group.REMOVED:
            yield group


def waits_for_room() -> bool:
    """Whether an actor that this process has started reserves what there is no room for."""
    import ray
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import ActorTableData
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData as Group

    accessor, here = state._connect_and_get_accessor(), bytes.fromhex(ray.get_runtime_context().get_worker_id())
    for group in _reservations():
        if group.state in (Group.PENDING, Group.RESCHEDULING):
            actor = accessor.get_actor_info(ray.ActorID(group.creator_actor_id))
            if actor is not None and ActorTableData.FromString(actor).owner_address.worker_id == here:
                return True
    return False


def free_forgotten() -> int:
    """Free what dead actors had reserved, this process's or one's that is gone; workers would wait for it for ever.

    Ray Train frees it when it knows of it: not where a worker group's start fails after its workers have begun, as when
    a node of theirs goes just then (2.60, WorkerGroup._start). Ray itself, when the whole job is dead: not where an
    actor died before GCS had taken down what it asked for, as at a sweep's end (2.60, GcsPlacementGroupManager).

    Returns:
        How many reservations of this process's actors are left.
    """
    import ray
    from ray._private.state import state
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    job, nobody = ray.JobID.from_hex(ray.get_runtime_context().get_job_id()).binary(), ray.ActorID.nil().binary()
    left = 0
    for group in _reservations():
        own, by_actor = group.creator_job_id == job, group.creator_actor_id not in (nobody, b"")
        if group.is_detached or not (by_actor and (own or group.creator_job_dead)):
            continue
        if group.creator_actor_dead or state.actor_table(group.creator_actor_id.hex()).get("State") == "DEAD":
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
        else:
            left += own
    return left


def leave(patience_s: float) -> None:
    """Free all that this process's actors have reserved, once they are dead, which they are about to be.

    Args:
        patience_s: how long that may take; what is left then is freed by who comes next.
    """
    import ray
    from ray._private.state import state

    job, deadline = ray.JobID.from_hex(ray.get_runtime_context().get_job_id()), time.monotonic() + patience_s
    while time.monotonic() < deadline:
        alive = [actor["ActorClassName"] for actor in state.actor_table(None, job, "ALIVE").values()]
        if not free_forgotten() and "TrainController" not in alive:  # which might be about to reserve something
            return
        time.sleep(0.1)


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
            _knock(os.environ["RAY_ADDRESS"])
            ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False, logging_level=logging.ERROR)
        else:
            _start()
    except Exception as exc:  # what ray.init raises is often just that: Exception
        where = f"RAY_ADDRESS={os.environ['RAY_ADDRESS']}" if is_given() else "this machine"
        raise SweepError(f"no Ray at {where}: {exc}") from exc
    try:
        yield
    finally:
        # What Ray holds back of its own messages, such as the last words of a node that died, it prints as it leaves.
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            ray.shutdown()


def _knock(address: str) -> None:
    """See that something listens where a Ray is said to be: Ray itself asks for ten minutes and longer.

    Raises:
        OSError: nothing does.
    """
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in host:  # neither `auto` nor a URL
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()


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
