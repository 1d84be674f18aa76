"""A cluster of several Ray nodes on this machine, which does as it is told on its standard input, a line a command.

add CPUS       one more node; answers with its place in the list, from 0
kill PLACE     kills it
drain PLACE S  announces that it will be gone in S seconds
"""

import sys

from orchestrator import cluster

cluster.prepare_environment()

import ray  # noqa: E402 - after its environment
from ray.cluster_utils import Cluster  # noqa: E402

from orchestrator import spot  # noqa: E402
from orchestrator.capacity import HEAD  # noqa: E402


def main() -> None:
    """Bring up a head, say where, and obey until the input ends."""
    nodes = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "resources": {HEAD: 1},
            "object_store_memory": 100 * 2**20,
            "include_dashboard": True,  # its State API frees what dead trials had reserved
            "dashboard_port": cluster.free_port(),
        },
    )
    ray.init(address=nodes.address, log_to_driver=False)
    print(nodes.address, flush=True)
    added = []
    for line in sys.stdin:
        match line.split():
            case ["add", cpus]:
                added.append(nodes.add_node(num_cpus=int(cpus), object_store_memory=100 * 2**20))
                print(len(added) - 1, flush=True)
            case ["kill", place]:
                nodes.remove_node(added[int(place)], allow_graceful=False)
                print("killed", flush=True)
            case ["drain", place, seconds]:
                spot.drain(added[int(place)].node_id, float(seconds))
                print("drained", flush=True)
    ray.shutdown()
    nodes.shutdown()


if __name__ == "__main__":
    main()
