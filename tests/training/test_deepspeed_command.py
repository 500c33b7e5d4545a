"""`effopd train` under DeepSpeed, started in both ways that docs/training.md shows: the same run to the bit."""

import json
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from faults.workloads import training
from safetensors.torch import load_file
from tiny import assert_same
from torchrun import torchrun

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed"),
]

COMMAND = Path(__file__).parent / "command_on_cpus.py"
CONFIG: dict[str, Any] = {
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's own would be compiled
}


@pytest.mark.parametrize("stage", [2, 3])
def test_accelerate_and_torchrun_start_the_same_run(tmp_path: Path, stage: int) -> None:
    zero = {"stage": stage} | ({"stage3_gather_16bit_weights_on_model_save": True} if stage == 3 else {})
    training(monitor_every=None, per_device_train_batch_size=4).prepare(tmp_path)
    deepspeed, accelerate = tmp_path / "zero.json", tmp_path / "zero.yaml"
    deepspeed.write_text(json.dumps(CONFIG | {"zero_optimization": zero}))
    settings = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "DEEPSPEED",
        "deepspeed_config": {"deepspeed_config_file": str(deepspeed), "deepspeed_multinode_launcher": "standard"},
        "num_processes": 2,
        "num_machines": 1,
        "machine_rank": 0,
        "main_training_function": "main",
        "use_cpu": True,
    }
    accelerate.write_text(yaml.safe_dump(settings))
    config, outs = tmp_path / "run.yaml", [tmp_path / "torchrun", tmp_path / "accelerate"]
    on_cpu = partial(torchrun, COMMAND, config, DS_ACCELERATOR="cpu")
    on_cpu("--output_dir", outs[0], "--deepspeed", deepspeed)
    launch = ["accelerate.commands.launch", "--config_file", str(accelerate)]
    on_cpu("--output_dir", outs[1], launcher=launch)
    models = [load_file(out / "model.safetensors") for out in outs]
    assert_same(*models)
    rows = [[json.loads(row) for row in (out / "extrapolations.jsonl").read_text().splitlines()] for out in outs]
    assert len(rows[0]) > 0
    assert [row["accepted_scale"] for row in rows[0]] == [row["accepted_scale"] for row in rows[1]]
    assert "is finished" in on_cpu("--output_dir", outs[1], launcher=launch)
