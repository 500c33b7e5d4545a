"""Fails loudly when TRL or transformers moves one of the private names that effopd.trl_hooks uses."""

import ast
import inspect
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer
from trl import DistillationConfig, DistillationTrainer, GRPOConfig, GRPOTrainer, RLOOTrainer
from trl.chat_template_utils import parse_response
from trl.data_utils import is_conversational
from trl.generation.vllm_generation import VLLMGeneration
from trl.kernels.chunked_divergence import ChunkedDivergenceFunction
from trl.kernels.chunked_logprob import ChunkedLogProbFunction
from trl.trainer import distillation_trainer as distillation_module
from trl.trainer.utils import RepeatSampler, pad, shutdown_event_loop_in_daemon, start_event_loop_in_daemon

from effopd import trl_hooks
from effopd.trl_hooks.distillation import HookedDistillationTrainer
from effopd.trl_hooks.grpo import HookedGRPOTrainer

HOOKS = Path(trl_hooks.__file__).parent
TRAINERS = (DistillationTrainer, GRPOTrainer, RLOOTrainer)


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_signatures_of_the_private_hooks() -> None:
    for trainer in TRAINERS:
        assert parameters(trainer._tokenize_prompts) == ["self", "prompts"]
        assert parameters(trainer._load_optimizer_and_scheduler) == ["self", "checkpoint"]
        assert "super()._save_checkpoint(model, trial)" in inspect.getsource(trainer._save_checkpoint)
        assert "RepeatSampler(" in inspect.getsource(trainer._get_train_sampler)
        assert "num_update_steps_per_epoch" in parameters(trainer._init_training_state)
    assert "save_total_limit=self.args.save_total_limit" in inspect.getsource(Trainer._save_checkpoint)
    single = ["self", "prompt_ids", "images", "multimodal_fields"]
    assert parameters(DistillationTrainer._generate_single_turn) == [*single, "has_tool_images"]
    assert parameters(RLOOTrainer._generate_single_turn) == single
    assert parameters(GRPOTrainer._generate_single_turn) == [*single, "num_generations", "has_tool_images"]
    assert parameters(distillation_module._chunked_divergence_loss)[:7] == [
        "student_hidden_states",
        "teacher_hidden_states",
        "student_lm_head_weight",
        "teacher_lm_head_weight",
        "completion_mask",
        "beta",
        "num_items_in_batch",
    ]


def test_signatures_of_what_is_overridden() -> None:
    inputs, prompts = ["self", "inputs"], ["self", "prompts"]
    assert parameters(DistillationTrainer._generate_and_score_completions) == inputs
    assert parameters(DistillationTrainer._generate) == prompts
    assert "return prompt_ids, completion_ids, " in inspect.getsource(DistillationTrainer._generate)
    assert "self._generate(" in inspect.getsource(DistillationTrainer._generate_and_score_completions)
    assert parameters(DistillationTrainer._get_last_hidden_state)[:4] == [
        "self",
        "unwrapped_model",
        "input_ids",
        "attention_mask",
    ]
    assert parameters(DistillationTrainer._compute_loss) == [
        "self",
        "unwrapped_student",
        "inputs",
        "num_items_in_batch",
    ]
    source = inspect.getsource(DistillationTrainer._compute_loss)
    assert source.count("_chunked_divergence_loss(") == 1
    assert source.count("self._get_last_hidden_state") == 2


def test_signatures_of_what_is_overridden_in_grpo() -> None:
    assert parameters(GRPOTrainer._generate_and_score_completions) == ["self", "inputs"]
    assert parameters(GRPOTrainer._generate) == ["self", "prompts"]
    rewarded = ["self", "inputs", "prompts", "completions", "completion_ids_list"]
    assert parameters(GRPOTrainer._calculate_rewards) == rewarded
    assert parameters(GRPOTrainer._compute_loss) == ["self", "model", "inputs"]
    read = ["self", "model", "input_ids", "attention_mask", "logits_to_keep"]
    assert parameters(GRPOTrainer._get_per_token_logps_and_entropies)[:5] == read
    # The places of what dynamic sampling replaces, and the order in which it is made use of.
    assert "return prompt_ids, completion_ids, tool_mask, completions, logprobs, " in inspect.getsource(
        GRPOTrainer._generate
    )
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    assert source.index("self._generate(prompts)") < source.index("self._calculate_rewards(inputs, prompts, ")
    assert source.count("self._calculate_rewards(") == source.count("self._generate(") == 1
    assert "self._pending_extra_logs.clear()" in source
    # Advantages of each token, in place of one for each completion.
    assert "if advantages.dim() == 1:" in inspect.getsource(GRPOTrainer._compute_loss)


def test_signatures_of_what_another_pass_calls() -> None:
    for trainer in TRAINERS:
        assert parameters(trainer.training_step) == ["self", "model", "inputs", "num_items_in_batch"]
        assert parameters(trainer._clip_grad_norm) == ["self", "model"]
    assert parameters(DistillationTrainer._prepare_inputs) == ["self", "generation_batch"]
    assert "self._buffered_inputs = [" in inspect.getsource(DistillationTrainer._prepare_inputs)
    source = inspect.getsource(DistillationTrainer._compute_loss)
    assert "teacher_hidden_states = self._forward_redirection(" in source


def test_signatures_of_what_is_imported() -> None:
    assert parameters(ChunkedLogProbFunction.forward) == [
        "ctx",
        "hidden",
        "weight",
        "bias",
        "targets",
        "temperature",
        "chunk_size",
        "final_logit_softcapping",
        "logit_scale",
        "outputs",
    ]
    assert parameters(ChunkedDivergenceFunction.forward) == [
        "ctx",
        "student_hidden",
        "student_weight",
        "student_bias",
        "teacher_hidden",
        "teacher_weight",
        "teacher_bias",
        "beta",
        "temperature",
        "student_logit_scale",
        "student_final_logit_softcapping",
        "teacher_logit_scale",
        "teacher_final_logit_softcapping",
    ]
    assert parameters(pad) == ["tensors", "padding_value", "padding_side", "pad_to_multiple_of"]
    assert parameters(parse_response)[:3] == ["tokenizer", "ids", "prefix"]
    assert parameters(start_event_loop_in_daemon) == ["name"]
    assert parameters(shutdown_event_loop_in_daemon) == ["thread", "loop"]
    assert is_conversational({"prompt": [{"role": "user", "content": "?"}]})
    assert not is_conversational({"prompt": "?"})
    assert len(list(RepeatSampler([0, 1], 1))) == 2


@cache
def private_names(trainer: Any) -> frozenset[str]:
    """Names with an underscore of a trainer's methods and attributes, those of transformers' Trainer included."""
    classes = [each for each in trainer.__mro__ if each.__module__.partition(".")[0] in ("trl", "transformers")]
    found = {name for each in classes for name in vars(each)}
    found |= {name for each in classes for name in re.findall(r"self\.(\w+)", inspect.getsource(each))}
    return frozenset(name for name in found if re.match("_(?!_)", name))


def test_private_attributes_are_still_set() -> None:
    for trainer in TRAINERS:
        assert {"_buffered_inputs", "_last_loaded_step", "_metrics", "_step"} <= private_names(trainer)
        assert {"_tag_names", "_tokenizer"} <= private_names(trainer)
    for trainer, name in (
        (GRPOTrainer, "async_loop"),
        (RLOOTrainer, "async_loop"),
        (RLOOTrainer, "num_generations"),
        (RLOOTrainer, "num_generations_eval"),
        (GRPOTrainer, "num_iterations"),
        (DistillationTrainer, "vllm_generation"),
    ):
        assert re.search(rf"self\.{name}\b", inspect.getsource(trainer)), name


@pytest.mark.parametrize("trainer", TRAINERS)
def test_vllm_takes_weights_when_the_step_differs(trainer: Any) -> None:
    """The rule that `publish_weights` works by, as TRL writes it."""
    source = inspect.getsource(trainer._generate_single_turn)
    assert "self.state.global_step != self._last_loaded_step" in source
    assert "self.vllm_generation.sync_weights()" in source
    assert "self._buffered_inputs is None" in inspect.getsource(trainer._prepare_inputs)


def test_vllm_reports_log_probabilities_for_which_distillation_does_not_ask() -> None:
    """What `engine_logprobs` relies on."""
    assert parameters(VLLMGeneration.generate) == ["self", "prompts", "images", "num_generations", "profiler"]
    assert "return prompt_ids, completion_ids, logprobs, logprob_token_ids" in inspect.getsource(
        VLLMGeneration.generate
    )
    assert '"logprobs": self.logprobs' in inspect.getsource(VLLMGeneration.generate)
    assert "logprobs=None" in inspect.getsource(DistillationTrainer.__init__)
    names = "vllm_importance_sampling_correction", "vllm_importance_sampling_clip_max"
    assert all(name in GRPOConfig.__dataclass_fields__ for name in names)
    assert not any(name in DistillationConfig.__dataclass_fields__ for name in names)


def table() -> dict[str, str]:
    """The table that effopd.trl_hooks opens with: what stands below each file's name."""
    parts = re.split(r"^    (\w+\.py)$", trl_hooks.__doc__ or "", flags=re.MULTILINE)
    return {name: text.split("\n\n")[0] for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def own_names(tree: ast.Module) -> set[str]:
    """Attributes that classes without a base give themselves: `self._name`, for methods and for what they assign."""
    names = set()
    for each in tree.body:
        if isinstance(each, ast.ClassDef) and not each.bases:
            for node in ast.walk(each):
                if isinstance(node, ast.FunctionDef):
                    names.add(f"self.{node.name}")
                elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                    names.add(ast.unparse(node))
    return {name for name in names if name.startswith("self.") and name.count(".") == 1}


def used(path: Path) -> set[str]:
    """Private names that a file uses of other objects, and names that it imports from the inside of TRL."""
    found = set()
    tree = ast.parse(path.read_text())
    ours = own_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ours:
            continue
        if isinstance(node, ast.Attribute) and re.match("_(?!_|effopd)", node.attr):
            found.add(node.attr)
        elif isinstance(node, ast.FunctionDef) and node.name in private_names(DistillationTrainer):
            found.add(node.name)
        elif isinstance(node, ast.Constant) and node.value in private_names(DistillationTrainer):
            found.add(node.value)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trl."):
            found |= {alias.name for alias in node.names}
    return found


def test_the_table_names_what_each_file_uses() -> None:
    files = {path.name for path in HOOKS.glob("*.py")} - {"__init__.py"}
    assert table().keys() == files
    for name, text in table().items():
        named = set(re.findall(r"\w+", text))
        assert used(HOOKS / name) <= named, name
        source = (HOOKS / name).read_text()
        assert all(each in source for each in named if re.match("_(?!_)", each)), name


@pytest.mark.parametrize(
    ("hooked", "public"),
    [
        (
            HookedDistillationTrainer,
            {"on_rollouts", "on_teacher_pass", "on_reference_pass", "read_reference", "training_loss"},
        ),
        (HookedGRPOTrainer, {"on_rollouts", "on_reference_pass", "token_advantages", "after_micro_batch"}),
    ],
)
def test_what_the_hooks_add_is_no_name_of_trl(hooked: Any, public: set[str]) -> None:
    assert public < vars(hooked).keys()
    trainer = hooked.__base__
    source = "".join(inspect.getsource(each) for each in trainer.__mro__[:-1])
    assert not public & set(re.findall(r"(?:self\.|def )(\w+)", source))
    assert not any(hasattr(trainer, name) for name in public)
    assert not any("effopd" in name for trainer in TRAINERS for name in private_names(trainer))


# What other files may import of TRL: its public classes, here and nowhere else.
PUBLIC_IMPORTS = {
    ("extrapolation/next_rollouts.py", "trl", "DistillationTrainer"),
    ("training/config.py", "trl", "DistillationConfig"),
    ("training/config_file.py", "trl", "TrlParser"),
    ("training/rl_config.py", "trl", "GRPOConfig"),
    ("training/rl_trainer.py", "trl.rewards", "get_soft_overlong_punishment"),
    ("world/teacher.py", "trl", "GRPOConfig"),
    ("world/teacher.py", "trl", "GRPOTrainer"),
}
OTHERS = {
    str(path.relative_to(HOOKS.parent)): ast.parse(path.read_text())
    for path in HOOKS.parent.rglob("*.py")
    if HOOKS not in path.parents
}


def test_other_files_import_only_public_classes_of_trl() -> None:
    found = set()
    for name, tree in OTHERS.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {(name, alias.name, "") for alias in node.names if alias.name.partition(".")[0] == "trl"}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "trl":
                found |= {(name, node.module or "", alias.name) for alias in node.names}
    assert found == PUBLIC_IMPORTS


def of_a_trainer(node: ast.expr) -> bool:
    """Whether an expression reads as a trainer: `trainer`, `self.trainer`, `type(trainer)`."""
    return "trainer" in ast.unparse(node).lower()


def test_other_files_touch_no_private_name_of_a_trainer() -> None:
    private = frozenset[str]().union(*map(private_names, TRAINERS))
    for name, tree in OTHERS.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                on_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                of_another_engine = name.startswith("integrations/") and node.attr not in private
                assert on_self or of_another_engine or not of_a_trainer(node.value), f"{name}: {ast.unparse(node)}"
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr", "vars"):
                names = {each.value for each in node.args if isinstance(each, ast.Constant)}
                assert not names & private, f"{name}: {ast.unparse(node)}"
            elif isinstance(node, ast.ClassDef) and any("Trainer" in ast.unparse(base) for base in node.bases):
                if any(ast.unparse(base) == "TrainerCallback" for base in node.bases):
                    continue
                own = {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}
                own |= {each.name for each in ast.walk(node) if isinstance(each, ast.FunctionDef)}
                assert not own & private, f"{name}: {node.name}"
