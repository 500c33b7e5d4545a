"""What verl lacks to run on CPUs: a platform, and a rollout engine, for which there is a stand-in.

verl imports this in every process where VERL_USE_EXTERNAL_MODULES says so.
"""

import contextlib
from types import SimpleNamespace
from typing import Any

import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry

# What verl asks of an accelerator's module, beside what torch.cpu has.
ASKED = {
    **dict.fromkeys(["memory_allocated", "memory_reserved", "max_memory_allocated", "max_memory_reserved"], int),
    **dict.fromkeys(["empty_cache", "ipc_collect", "reset_peak_memory_stats"], lambda: None),
    "mem_get_info": lambda: (0, 0),
    "get_device_name": lambda *index: "CPU",
    "set_rng_state": torch.set_rng_state,
}


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    device_name, vendor_name, device_module = "cpu", "cpu", SimpleNamespace(**{**vars(torch.cpu), **ASKED})

    def is_available(self) -> bool:
        return True

    def current_device(self) -> str:
        return "cpu"

    def device_count(self) -> int:
        return 1

    def nothing(self, *args: Any) -> None:
        pass

    set_device = synchronize = set_allocator_settings = empty_cache = profiler_start = profiler_stop = nothing
    cudart = nothing

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def get_device_capability(self, index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CPU_VISIBLE"

    def nvtx_range(self, message: str) -> Any:
        return contextlib.nullcontext()

    def ray_resource_name(self) -> str:
        return "GPU"  # verl counts these; Ray is told that there are two

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False


# verl names a backend for the CPU and one for the accelerator, and torch wants no device named twice.
_init_process_group = torch.distributed.init_process_group
torch.distributed.init_process_group = lambda backend=None, **others: _init_process_group("gloo", **others)


def _stand_in() -> type:
    from verl_stand_in import StandInReplica

    return StandInReplica


from verl.workers.rollout.base import _ROLLOUT_REGISTRY  # noqa: E402  needs the platform
from verl.workers.rollout.replica import RolloutReplicaRegistry  # noqa: E402

_ROLLOUT_REGISTRY["stand_in", "async"] = "verl_stand_in.StandInRollout"
RolloutReplicaRegistry.register("stand_in", _stand_in)
