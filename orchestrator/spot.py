"""Announces to Ray that a cloud is about to take this node back, so that its trials save in time and move (ray).

    python -m orchestrator.spot aws        # or gcp; started on spot nodes, see cluster.yaml

A cloud says it to the instance alone, at an address of its own; Ray must be told, or it learns of it from the loss.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime

from orchestrator import cluster
from orchestrator.errors import SweepError

POLL_S = 5.0
# What a Google Cloud instance gets; AWS says the time.
# https://cloud.google.com/compute/docs/instances/spot#preemption-process
GCP_NOTICE_S = 30.0
TIMEOUT_S = 2.0
AWS, GCP = "http://169.254.169.254", "http://metadata.google.internal"


def aws_deadline(server: str = AWS) -> float | None:
    """When AWS takes this instance, in seconds since the epoch; None where it has not said so.

    Source: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html

    Raises:
        OSError: the instance's metadata cannot be read.
    """
    token = _ask(f"{server}/latest/api/token", "PUT", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    try:
        text = _ask(f"{server}/latest/meta-data/spot/instance-action", "GET", {"X-aws-ec2-metadata-token": token})
    except urllib.error.HTTPError as exc:
        if exc.code == 404:
            return None
        raise
    action = json.loads(text)
    return datetime.strptime(action["time"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()


def gcp_deadline(server: str = GCP) -> float | None:
    """When Google takes this instance, in seconds since the epoch; None where it has not said so.

    Raises:
        OSError: the instance's metadata cannot be read.
    """
    text = _ask(f"{server}/computeMetadata/v1/instance/preempted", "GET", {"Metadata-Flavor": "Google"})
    return time.time() + GCP_NOTICE_S if text.strip() == "TRUE" else None


def watch(deadline: Callable[[], float | None], drain: Callable[[float], None], poll_s: float = POLL_S) -> None:
    """Ask until the cloud says when, and pass it on once; a metadata server, or a Ray, that does not answer is asked
    again."""
    said = False
    while True:
        try:
            if (at := deadline()) is not None:
                drain(max(1.0, at - time.time()))
                return
            said = False
        except (OSError, ValueError, SweepError) as exc:
            if not said:
                print(
                    f"not known or not passed on whether this node goes, asking again: {exc}",
                    file=sys.stderr,
                    flush=True,
                )
            said = True
        time.sleep(poll_s)


def drain_this_node(seconds: float) -> None:
    """Tell Ray that this node will be gone in so many seconds."""
    import ray

    with cluster.connected():
        drain(ray.get_runtime_context().get_node_id(), seconds)


def drain(node_id: str, seconds: float) -> None:
    """Tell the connected Ray that a node will be gone in so many seconds: it gets no new work.

    Raises:
        SweepError: Ray refuses.
    """
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
    from ray.core.generated import autoscaler_pb2

    gcs = GcsClient(address=ray.get_runtime_context().gcs_address)
    deadline_ms = int((time.time() + seconds) * 1000)
    reason = autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION
    accepted, why = gcs.drain_node(node_id, reason, "the cloud takes this spot node back", deadline_ms)
    if not accepted:
        raise SweepError(f"Ray does not drain node {node_id}: {why}")


def main() -> None:
    """Watch over this node until it is taken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cloud", choices=("aws", "gcp"))
    cloud = parser.parse_args().cloud
    watch({"aws": aws_deadline, "gcp": gcp_deadline}[cloud], drain_this_node)


def _ask(url: str, method: str, headers: dict[str, str]) -> str:
    request = urllib.request.Request(url, method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        text: str = answer.read().decode()
        return text


if __name__ == "__main__":
    main()
