"""How long the processes of a training wait for one another."""

from datetime import timedelta

import torch.distributed as dist
from torch.distributed import distributed_c10d
from transformers import TrainingArguments


def keep_timeout(config: TrainingArguments) -> None:
    """Have processes on CPUs wait for one another for `ddp_timeout`, which transformers sees to on GPUs only.

    Without it, processes whose network fails would wait for 30 minutes.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_backend() == "gloo":
        distributed_c10d._set_pg_timeout(timedelta(seconds=config.ddp_timeout))
