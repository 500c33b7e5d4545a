"""Settings of worlds that are built in a second."""

from typing import Any

from effopd.world import ModelSize, PretrainingConfig, SiblingConfig, TaskConfig, TeacherConfig

SIZE = ModelSize(hidden_size=16, intermediate_size=16, num_layers=1, num_heads=2)
PRETRAINING = PretrainingConfig(num_steps=3, batch_size=8)
SIBLING = SiblingConfig(model_size=ModelSize(8, 8, 1, 2), pretraining=PRETRAINING)
SETTINGS: dict[str, Any] = {
    "config": TaskConfig(num_operations=2),
    "model_size": SIZE,
    "pretraining": PRETRAINING,
    "teacher": TeacherConfig(num_steps=2, prompts_per_step=2, samples_per_prompt=2, save_steps=1),
    "num_evaluation_examples": 20,
    "use_cpu": True,
}
