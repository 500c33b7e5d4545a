"""Everything that effopd uses of TRL, and of transformers' Trainer, that they do not promise to keep.

When TRL moves, this is the only package to mend; `tests/trl_hooks` fails when one of these names goes or changes its
signature. Each name stands below the file that uses it:

    rollouts.py
        Trainer._tokenize_prompts                       turns prompts into token ids
        Trainer._generate_single_turn                   samples from the live weights, by transformers or vLLM
        chat_template_utils.parse_response              decodes a completion for reward functions
        data_utils.is_conversational                    tells messages from text
        trainer.utils.pad                               pads prompts and completions
    vllm.py
        Trainer.vllm_generation.llm.generate            is given a seed for each prompt
        Trainer.vllm_generation.generate, .logprobs, .vllm_client.get_server_info
                                                        report log-probabilities, which DistillationTrainer leaves out
        Trainer.num_generations, .num_generations_eval  how often RLOO repeats a prompt; it takes prompts for a server
                                                        to be repeated
    divergence.py
        distillation_trainer._chunked_divergence_loss   the loss on hidden states and heads of student and teacher
        DistillationTrainer._get_last_hidden_state      runs student and teacher up to their heads
        kernels.chunked_logprob.ChunkedLogProbFunction  log-probabilities of given tokens
        kernels.chunked_divergence.ChunkedDivergenceFunction
                                                        the divergence at each token
        trainer.utils.maybe_gather_lm_head_ctx          gathers a head that ZeRO-3 has sharded
        Trainer._metrics                                what goes into the next log
    distillation.py
        DistillationTrainer._generate_and_score_completions, ._generate, ._get_last_hidden_state, ._compute_loss
                                                        are overridden, to call public methods
    grpo.py
        GRPOTrainer._generate_and_score_completions, ._generate, ._calculate_rewards, ._compute_loss,
        ._get_per_token_logps_and_entropies             are overridden, to call public methods
    dynamic_sampling.py
        GRPOTrainer._calculate_rewards                  rewards what was sampled, over all processes
        GRPOTrainer._pending_extra_logs                 what reward functions logged of each completion
        GRPOTrainer._generate                           returns lists with an entry for each completion
    step_rollouts.py
        Trainer._prepare_inputs                         samples a step's rollouts, before the step trains on them
        Trainer._buffered_inputs                        the step's micro-batches, where it puts them
        DistillationTrainer._get_last_hidden_state, ._forward_redirection
                                                        let the teacher read a micro-batch
        Trainer._clip_grad_norm, ._step                 one more optimizer step, of which the trainer knows nothing
        GradientState._set_sync_gradients (accelerate)  reduces gradients over processes with the last micro-batch
    teacher.py
        PreTrainedModel._no_split_modules               names the classes of a model's layers
        models.prepare_fsdp                             shards what is left of a model
    changed_weights.py
        Trainer._last_loaded_step                       the step whose weights vLLM holds; -1 makes it load them again
        Trainer._buffered_inputs                        rollouts kept for later steps; None makes it sample again
        Trainer._step                                   micro-batches trained on, which says how old the rollouts are
    resume.py
        Trainer._load_optimizer_and_scheduler           is given the checkpoint that training resumes from
        Trainer._init_training_state                    is called when training starts, and tells how many passes over
                                                        the prompts a resumed training has behind it
        Trainer._get_train_sampler                      makes the sampler of prompts
        trainer.utils.RepeatSampler                     draws an order of the prompts at each pass over them
    old_checkpoints.py
        Trainer._save_checkpoint                        saves a checkpoint and removes old ones, before `on_save`
    rewards.py
        Trainer.async_loop                              runs GRPO's asynchronous rewards, if it has any
        trainer.utils.start_event_loop_in_daemon, .shutdown_event_loop_in_daemon
                                                        make such a loop for other trainers
    trainer.py
        Trainer._tokenizer, ._metrics                   the tokenizer; what goes into the next log
        Trainer._tag_names                              tags of the card that is written with each checkpoint
        trainer.callbacks.SyncRefModelCallback          moves GRPO's reference model towards the weights
        Trainer._tokenize_prompts, ._generate_single_turn, ._prepare_inputs
                                                        sample, and keep rollouts for later steps; a tested trainer
                                                        has them from TRL

Callers write `trl_hooks.NAME(...)`.
"""

from effopd.trl_hooks.changed_weights import discard_rollouts, publish_weights
from effopd.trl_hooks.distillation import HookedDistillationTrainer, ReferenceOutput
from effopd.trl_hooks.divergence import (
    DivergenceLoss,
    divergence_loss,
    divergence_per_rollout,
    frozen_logprobs,
    replaced_loss,
    token_logprobs,
)
from effopd.trl_hooks.grpo import HookedGRPOTrainer
from effopd.trl_hooks.old_checkpoints import remove_old_checkpoints, remove_old_checkpoints_last
from effopd.trl_hooks.resume import on_resume, on_start
from effopd.trl_hooks.rewards import wait_for
from effopd.trl_hooks.rollouts import Rollout, empty_rollout, generate, is_divergence, make_rollouts
from effopd.trl_hooks.step_rollouts import SAMPLING_LOGPROBS, StepRollouts, StepScore, unwatch_rollouts
from effopd.trl_hooks.trainer import (
    SAMPLING_METHODS,
    TESTED_TRAINERS,
    add_tag,
    can_sample,
    log_metric,
    samples_as_tested,
    seconds_since,
    seeded_per_process,
    sync_reference_last,
    tokenizer,
)
from effopd.trl_hooks.vllm import ENGINE_LOGPROBS, check_engine_logprobs, samples_on_a_server

__all__ = [
    "ENGINE_LOGPROBS",
    "SAMPLING_LOGPROBS",
    "SAMPLING_METHODS",
    "TESTED_TRAINERS",
    "DivergenceLoss",
    "HookedDistillationTrainer",
    "HookedGRPOTrainer",
    "ReferenceOutput",
    "Rollout",
    "StepRollouts",
    "StepScore",
    "add_tag",
    "can_sample",
    "check_engine_logprobs",
    "discard_rollouts",
    "divergence_loss",
    "divergence_per_rollout",
    "empty_rollout",
    "frozen_logprobs",
    "generate",
    "is_divergence",
    "log_metric",
    "make_rollouts",
    "on_resume",
    "on_start",
    "publish_weights",
    "remove_old_checkpoints",
    "remove_old_checkpoints_last",
    "replaced_loss",
    "samples_as_tested",
    "samples_on_a_server",
    "seconds_since",
    "seeded_per_process",
    "sync_reference_last",
    "token_logprobs",
    "tokenizer",
    "unwatch_rollouts",
    "wait_for",
]
