"""torch.distributed for a worker group, set up by a Ray Train backend that loads torch in the workers only.

Ray's own `TorchConfig` does the same, but its module imports torch in the controller as well, which takes 4 s of a
cold start on 2 cores (`python -X importtime -c "import ray.train.torch"`), and its memory while the slot lives.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig

# Longer than any limit of the sweep's own: what hangs is ended by the worker's watch, with a message that says where.
COLLECTIVE_TIMEOUT_S = 24 * 3600.0
# In which every rank has to import torch, and then to reach rank 0; a group that takes longer has failed.
JOIN_TIMEOUT_S = 300.0
LEAVE_TIMEOUT_S = 5.0


class _TorchBackend(Backend):
    share_cuda_visible_devices = True  # as Ray's own: each rank sees its node's GPUs and uses its own

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Let every rank join the process group; rank 0's node is where they meet."""
        address, port = worker_group.execute_single(0, _meeting_point)
        joined = [
            worker_group.execute_single_async(rank, _join, address, port, backend_config.backend)
            for rank in range(len(worker_group))
        ]
        ray.get(joined, timeout=2 * JOIN_TIMEOUT_S)

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Leave it, unless a rank hangs: then it is killed next."""
        ray.wait(worker_group.execute_async(_leave), num_returns=len(worker_group), timeout=LEAVE_TIMEOUT_S)


@dataclass
class ProcessGroup(BackendConfig):
    """Configures a worker group's process group."""

    backend: str
    """`gloo`, or `nccl` where every rank has a GPU to itself."""

    @property
    def backend_cls(self) -> type[Backend]:
        """The class that sets it up."""
        return _TorchBackend


def _meeting_point() -> tuple[str, int]:
    with socket.socket() as free:
        free.bind(("", 0))
        return ray.util.get_node_ip_address(), free.getsockname()[1]


def _join(address: str, port: int, backend: str) -> None:
    import ray.train.torch
    import torch

    context = ray.train.get_context()
    # The names torchrun uses, which users' code may read.
    os.environ |= {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "RANK": str(context.get_world_rank()),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": str(context.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
        "NODE_RANK": str(context.get_node_rank()),
    }
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store: Any = vars(torch.distributed)["TCPStore"]
    rank, world_size = context.get_world_rank(), context.get_world_size()
    torch.distributed.init_process_group(
        backend=backend,
        store=store(address, port, world_size, is_master=rank == 0, timeout=timedelta(seconds=JOIN_TIMEOUT_S)),
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S),
    )


def _leave() -> None:
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
