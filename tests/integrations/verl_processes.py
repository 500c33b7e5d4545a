"""How tests start processes with verl: on CPUs, without the warnings of what is not installed."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
needs_verl = pytest.mark.skipif(find_spec("verl") is None, reason="verl is not installed; run `make test-verl`")
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(FOLDER.parents[1] / "src"), str(FOLDER)]),
    "PYTHONWARNINGS": "ignore",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "100,101",  # as many as Ray is told of, and none that torch finds
    "VERL_PLATFORM": "cpu",
    "VERL_ENGINE_DEVICE": "cuda",  # under which verl's FSDP2 engine is registered
    "VERL_LOGGING_LEVEL": "ERROR",
    "VERL_USE_EXTERNAL_MODULES": "verl_on_cpu,effopd.integrations.verl",
    "RAY_DEDUP_LOGS": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}
