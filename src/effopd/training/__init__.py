"""Training runs, as `effopd train` does them.

arguments = RunArguments(model_name_or_path="world:base", dataset_name="world:train", reward=["world"])
config = OPDConfig(output_dir="runs/mine", teacher_model_name_or_path="world:teacher", max_steps=32)
rows = train(arguments, config)                    # the rows of runs/mine/metrics.jsonl
"""

from effopd.training.build import build_trainer
from effopd.training.config import OPDConfig, RunArguments
from effopd.training.rl_config import RLConfig
from effopd.training.rl_trainer import RLTrainer
from effopd.training.run import train
from effopd.training.trainer import OPDTrainer

__all__ = ["OPDConfig", "OPDTrainer", "RLConfig", "RLTrainer", "RunArguments", "build_trainer", "train"]
