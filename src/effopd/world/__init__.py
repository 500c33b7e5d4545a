"""The embedded worlds: a task, a base model that is half right, and a teacher; `WORLDS` has several kinds.

The worlds are small enough for a laptop's CPU. In the one that functions take by default, `style`, the teacher was made
from the base by reinforcement learning, and the effects that this package studies appear:

    from transformers import AutoModelForCausalLM, AutoTokenizer
    from effopd import world

    model = AutoModelForCausalLM.from_pretrained(world.base_dir())
    tokenizer = AutoTokenizer.from_pretrained(world.base_dir())
    prompts = world.make_dataset("evaluation", 100)["prompt"]   # "7*3+4-9*2+5=", ...; left to right, modulo 10
    batch = tokenizer(prompts[:], return_tensors="pt", return_token_type_ids=False)
    tokens = model.generate(**batch, do_sample=True, max_new_tokens=12)
    completions = tokenizer.batch_decode(tokens[:, 12:], skip_special_tokens=True)

    completions[:2]                              # "#6" (at once) or "1,5,6,2,7" (step by step)
    world.answering_style("1,5,6,2,7")           # "step_by_step"
    world.world_reward(["1,5,6,2,7"], ["7"])     # [1.0]
    world.card()["base"]["sampled_accuracy"]     # the accuracy to expect; the card has the teacher's too

`build_named_world` builds a world of `WORLDS`, and `build_world` one with settings of your own.
"""

from effopd.world.assets import base_dir, card, model_path, teacher_dir
from effopd.world.build import build_named_world, build_world
from effopd.world.evaluate import measure_accuracy
from effopd.world.forgetting import measure_second_skill
from effopd.world.measure import measure_world
from effopd.world.model import ModelSize
from effopd.world.pretrain import PretrainingConfig
from effopd.world.reward import answering_style, world_reward
from effopd.world.second_skill import make_second_dataset
from effopd.world.sibling import SiblingConfig
from effopd.world.task import TaskConfig, make_dataset
from effopd.world.teacher import TeacherConfig
from effopd.world.worlds import DEFAULT_WORLD, WORLDS, WorldSettings, split_name, task_config

__all__ = [
    "DEFAULT_WORLD",
    "ModelSize",
    "PretrainingConfig",
    "SiblingConfig",
    "TaskConfig",
    "TeacherConfig",
    "WORLDS",
    "WorldSettings",
    "answering_style",
    "base_dir",
    "build_named_world",
    "build_world",
    "card",
    "make_dataset",
    "make_second_dataset",
    "measure_accuracy",
    "measure_second_skill",
    "measure_world",
    "model_path",
    "split_name",
    "task_config",
    "teacher_dir",
    "world_reward",
]
