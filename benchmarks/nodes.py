"""A Ray of several nodes on this machine, which come and go as they are told; run with as many CPUs as there are.

It is `python -m benchmarks.nodes`, a process of its own that obeys a line at a time on its standard input:

add CPUS       one more node; answers with its place in the list, from 0
kill PLACE     kills it
drain PLACE S  announces that it will be gone in S seconds
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OBJECT_STORE_BYTES = 100 * 2**20


class Nodes:
    """The nodes, seen from the process that tells them what to do."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self._log = process, log
        self.address = self._answer()

    def add(self, cpus: int) -> int:
        """Add a node; its place in the list."""
        return int(self._tell(f"add {cpus}"))

    def kill(self, place: int) -> None:
        """Kill a node."""
        self._tell(f"kill {place}")

    def drain(self, place: int, seconds: float) -> None:
        """Announce that a node will be gone in so many seconds."""
        self._tell(f"drain {place} {seconds}")

    def _tell(self, command: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline().strip()
        if not answer:
            raise RuntimeError(self._log.read_text()[-3000:])
        return answer


@contextmanager
def brought_up(log: Path, environment: Mapping[str, str]) -> Iterator[Nodes]:
    """A head without CPUs, to which nodes are added; all of it ends with the block."""
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.nodes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=dict(environment) | {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1"},
            cwd=Path(__file__).resolve().parent.parent,
        )
    try:
        yield Nodes(process, log)
    finally:
        process.communicate(timeout=120)
    if process.returncode:
        raise RuntimeError(log.read_text()[-3000:])


def main() -> None:
    """Bring up a head, say where, and obey until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray prints, e.g. the last lines of a killed node's log
    from orchestrator import cluster, spot
    from orchestrator.capacity import HEAD

    cluster.prepare_environment()
    import ray
    from ray.cluster_utils import Cluster

    head: dict[str, Any] = {
        "num_cpus": 0,
        "resources": {HEAD: 1},
        "object_store_memory": OBJECT_STORE_BYTES,
        "include_dashboard": True,  # its State API frees what dead trials had reserved
        "dashboard_port": cluster.free_port(),
    }
    nodes = Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=nodes.address, log_to_driver=False)
    print(nodes.address, file=answers, flush=True)
    added = []
    for line in sys.stdin:
        match line.split():
            case ["add", cpus]:
                added.append(nodes.add_node(num_cpus=int(cpus), object_store_memory=OBJECT_STORE_BYTES))
                print(len(added) - 1, file=answers, flush=True)
            case ["kill", place]:
                nodes.remove_node(added[int(place)], allow_graceful=False)
                print("killed", file=answers, flush=True)
            case ["drain", place, seconds]:
                spot.drain(added[int(place)].node_id, float(seconds))
                print("drained", file=answers, flush=True)
    ray.shutdown()
    nodes.shutdown()


if __name__ == "__main__":
    main()
