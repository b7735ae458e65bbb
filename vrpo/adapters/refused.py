"""What TRL's and transformers' arguments ask for that is not here, by name, with what to use instead. A test holds it against the installed TRL."""

from __future__ import annotations

from typing import Any, NamedTuple


class Refused(NamedTuple):
    """One argument.

    Attributes:
        cure: what to use instead, or why there is nothing.
        holds: values that are what is done here in any case; None, which asks for nothing, is always one.
    """

    cure: str
    holds: tuple[Any, ...] = ()


def _all(names: str, cure: str, *holds: Any) -> dict[str, Refused]:
    return {name: Refused(cure, holds) for name in names.split()}


GRPO: dict[str, Refused] = {  # TRL's GRPOConfig
    **_all("model_init_kwargs", "load the model yourself and give it as `model`", {}),
    **_all("router_aux_loss_coef", "there is no such term in the loss; leave it out", 0.0),
    **_all("disable_dropout", "dropout acts in no pass here; leave it out", True),
    **_all("cast_lm_head_to_fp32", "weights are float32 and log-probabilities are taken in it; leave it out", False),
    **_all("remove_unused_columns", "rewards get every column; leave it out", False),
    **_all("num_generations_eval", "one response to each evaluation row; repeat rows for more", 1),
    **_all("ds3_gather_for_generation", "there is no sharding; leave it out", True),
    **_all("shuffle_dataset", "each pass has its own order, by seed; leave it out", True),
    **_all("pad_to_multiple_of", "batches are as wide as their longest row; leave it out", "auto", 1),
    **_all("top_p", "samples come from the whole distribution, whose log-probabilities the loss needs; use temperature", 1.0),
    **_all("top_k", "samples come from the whole distribution, whose log-probabilities the loss needs; use temperature", 0, -1),
    **_all("min_p", "samples come from the whole distribution, whose log-probabilities the loss needs; use temperature", 0.0),
    **_all("repetition_penalty", "samples come from the whole distribution; let the reward count repetitions", 1.0),
    **_all(
        "generation_kwargs", "use temperature and max_completion_length; an engine of your own (docs/extend.md) samples as it likes", {}
    ),
    **_all("chat_template_kwargs", "apply the chat template yourself and give prompts as text", {}),
    **_all("cache_implementation", "the engine has its own cache; leave it out"),
    **_all("use_vllm", "use engine='vllm' (docs/operate.md#vllm-as-the-sampler)", False),
    **_all(
        "vllm_mode vllm_model_impl vllm_enable_sleep_mode vllm_structured_outputs_regex vllm_server_base_url vllm_server_host vllm_server_port "
        "vllm_server_timeout vllm_group_port vllm_gpu_memory_utilization vllm_max_model_length vllm_tensor_parallel_size "
        "vllm_importance_sampling_correction vllm_importance_sampling_mode vllm_importance_sampling_clip_max "
        "vllm_importance_sampling_clip_min",
        "use engine='vllm' with engine_settings, those of vllm.LLM, and importance_cap (docs/operate.md#vllm-as-the-sampler)",
    ),
    **_all("vllm_importance_sampling_cap", "use importance_cap, with engine='vllm'"),
    **_all("use_transformers_continuous_batching use_transformers_paged", "the engine batches by itself; leave it out", False),
    **_all("transformers_continuous_batching_config", "the engine batches by itself; leave it out"),
    **_all("delta epsilon_high", "the clip range is the same on both sides; use epsilon"),
    **_all(
        "sapo_temperature_neg sapo_temperature_pos vespo_k_pos vespo_lambda_pos vespo_k_neg vespo_lambda_neg",
        "there is no such loss; use method, or write an algorithm (docs/extend.md#an-algorithm)",
    ),
    **_all("importance_sampling_level", "ratios are taken token by token; leave it out", "token"),
    **_all("multi_objective_aggregation", "weighted rewards are added, then compared; leave it out", "sum_then_normalize"),
    **_all("scale_rewards", "method='grpo' scales by group, method='dr_grpo' and 'rloo' do not scale; choose by method", "group", True),
    **_all("loss_type", "losses are means over the batch's tokens ('dapo'); for 'dr_grpo' use method='dr_grpo'", "dapo"),
    **_all(
        "mask_truncated_completions", "let a reward return None for responses that must not count (completion_ids shows their end)", False
    ),
    **_all("sync_ref_model", "the reference is the initial model throughout; leave it out", False),
    **_all("ref_model_mixup_alpha ref_model_sync_steps", "the reference is the initial model throughout; leave it out"),
    **_all("top_entropy_quantile", "every token counts; write an algorithm (docs/extend.md#an-algorithm)", 1.0),
    **_all("entropy_coef", "there is no entropy bonus; write an algorithm (docs/extend.md#an-algorithm)", 0.0),
    **_all("use_adaptive_entropy", "there is no entropy bonus; write an algorithm (docs/extend.md#an-algorithm)", False),
    **_all("entropy_coef_min entropy_coef_max entropy_coef_delta entropy_target", "there is no entropy bonus; leave it out"),
    **_all(
        "max_tool_calling_iterations",
        "there are no tools; an `environment` answers turns (docs/tutorial.md#4-train), max_turns limits them",
    ),
    **_all("off_policy_mask_threshold", "no sequence is masked; epsilon clips ratios"),
    **_all("use_bias_correction_kl", "the KL term is the plain k3 estimate; leave it out", False),
    **_all("log_completions", "look at responses in the reward function, which gets them all", False),
    **_all(
        "log_multimodal num_completions_to_print log_unique_prompts log_completions_hub_repo", "completions are not logged; leave it out"
    ),
}

TRANSFORMERS: dict[str, Refused] = {  # what GRPOConfig inherits from TrainingArguments
    **_all("lr_scheduler_kwargs", "the rate is constant after warmup_steps; leave it out", {}),
    **_all("optim", "the optimiser is AdamW; leave it out", "adamw_torch", "adamw_torch_fused"),
    **_all("optim_args optim_target_modules", "the optimiser is AdamW with torch's settings; leave it out"),
    **_all("weight_decay", "weights do not decay; leave it out", 0.0, 0),
    **_all("adam_beta1", "the optimiser is AdamW with torch's settings; leave it out", 0.9),
    **_all("adam_beta2", "the optimiser is AdamW with torch's settings; leave it out", 0.999),
    **_all("adam_epsilon", "the optimiser is AdamW with torch's settings; leave it out", 1e-8),
    **_all("average_tokens_across_devices", "losses are means over the whole batch's tokens, of all processes; leave it out", True),
    **_all("label_smoothing_factor", "there are no labels; leave it out", 0.0, 0),
    **_all("bf16_full_eval fp16_full_eval", "evaluation computes as training does; use bf16 or fp16", False),
    **_all("tf32", "set torch.backends.cuda.matmul.allow_tf32 yourself"),
    **_all("activation_checkpointing", "use gradient_checkpointing", False),
    **_all("activation_checkpointing_kwargs gradient_checkpointing_kwargs", "gradient_checkpointing=True needs none; leave it out", {}),
    **_all("torch_compile use_liger_kernel", "models run as they are; leave it out", False),
    **_all("torch_compile_backend torch_compile_mode liger_kernel_config", "models run as they are; leave it out"),
    **_all("use_cache", "sampling has a cache, training has none; leave it out"),
    **_all("neftune_noise_alpha", "embeddings get no noise; `noise` is the reward's"),
    **_all("torch_empty_cache_steps", "call torch.cuda.empty_cache() in a callback"),
    **_all("auto_find_batch_size", "choose per_device_train_batch_size; it changes memory, not the result", False),
    **_all("log_on_each_node save_on_each_node", "the first process writes; leave it out"),
    **_all("logging_nan_inf_filter", "what is not finite is left out of the log; leave it out", True),
    **_all("include_num_input_tokens_seen", "responses are counted: `rollouts` in the log", "no", False),
    **_all("log_level log_level_replica", "use Python's logging: logging.getLogger('vrpo').setLevel(...)", "passive", "warning"),
    **_all("eval_delay", "evaluation begins before the first step; leave it out", 0),
    **_all("prediction_loss_only", "evaluation is the mean reward of one response a row; leave it out", False),
    **_all("eval_on_start", "with eval_strategy the start is always measured; leave it out", True),
    **_all(
        "eval_do_concat_batches eval_use_gather_object eval_accumulation_steps batch_eval_metrics", "evaluation is rewards; leave it out"
    ),
    **_all("include_for_metrics", "evaluation is rewards; leave it out", []),
    **_all("save_only_model", "the checkpoint is whole; save_model() writes the model alone", False),
    **_all("save_total_limit", "there is one checkpoint, replaced each time; leave it out", 1),
    **_all("enable_jit_checkpoint", "lower save_steps: a killed run goes on from its checkpoint", False),
    **_all("hub_strategy", "the model is pushed after the last step; for more call push_to_hub in a callback", "end"),
    **_all("hub_always_push", "the model is pushed after the last step; leave it out", False),
    **_all("load_best_model_at_end", "the last model is kept; stop early with EarlyStoppingCallback", False),
    **_all("ignore_data_skip", "a resumed run goes on with the data where it was; leave it out", False),
    **_all("restore_callback_states_from_checkpoint", "callbacks keep their own state", False),
    **_all("full_determinism", "every draw is fixed by seed; leave it out", False),
    **_all("data_seed", "seed orders the data too; leave it out"),
    **_all("accelerator_config parallelism_config", "start processes with `accelerate launch` (docs/operate.md#several-processes)"),
    **_all("dataloader_drop_last", "passes over the prompts join without a gap; leave it out", False),
    **_all("dataloader_num_workers", "rows are in memory; leave it out", 0),
    **_all(
        "dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order",
        "rows are in memory; leave it out",
    ),
    **_all("label_names", "there are no labels; leave it out"),
    **_all("train_sampling_strategy", "each pass has its own order, by seed; leave it out", "random"),
    **_all("length_column_name", "rows are not grouped by length; leave it out"),
    **_all(
        "ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout local_rank",
        "start processes with `accelerate launch` (docs/operate.md#several-processes)",
    ),
    **_all("fsdp fsdp_config deepspeed", "use sharding='full' or 'hybrid', and offload (docs/operate.md#several-processes)"),
    **_all("debug", "use torch's own tools around train()", ""),
    **_all("skip_memory_metrics", "memory is not measured; leave it out", True),
    **_all("do_train do_eval do_predict", "call train() or evaluate()", False),
    **_all("resume_from_checkpoint", "give it to train(resume_from_checkpoint=True)"),
}

EARLIER: dict[str, Refused] = {  # what scripts for earlier versions of TRL and transformers have, PPOConfig's among them
    **_all("max_prompt_length", "prompts are never cut; shorten them in the data"),
    **_all("evaluation_strategy", "it is called eval_strategy"),
    **_all("warmup_ratio", "use warmup_steps, below 1 a share of all steps", 0.0, 0),
    **_all("no_cuda use_mps_device", "use use_cpu", False),
    **_all("logging_dir", "set the environment variable TENSORBOARD_LOGGING_DIR"),
    **_all("overwrite_output_dir", "train() starts anew, train(resume_from_checkpoint=True) goes on; leave it out"),
    **_all("num_ppo_epochs ppo_epochs", "use num_iterations"),
    **_all("cliprange", "use epsilon"),
    **_all("cliprange_value", "use critic={'clip_range': ...}"),
    **_all("vf_coef", "use critic={'loss_weight': ...}; it matters with critic={'backbone': 'shared'}"),
    **_all("lam", "use gae_lambda"),
    **_all("kl_coef init_kl_coef", "use beta, with kl_in='reward' for PPO's way"),
    **_all("kl_estimator", "in the loss it is k3, in the reward k1; choose with kl_in"),
    **_all("whiten_rewards", "advantages are normalised over the batch, rewards are not; leave it out", False),
    **_all("response_length max_new_tokens", "use max_completion_length"),
    **_all("total_episodes", "use max_steps: responses / (per_device_train_batch_size * gradient_accumulation_steps)"),
    **_all("num_mini_batches", "use steps_per_generation: with gradient_accumulation_steps=1 it is the number of optimiser steps"),
    **_all(
        "batch_size mini_batch_size local_batch_size local_mini_batch_size micro_batch_size local_rollout_forward_batch_size",
        "use per_device_train_batch_size, gradient_accumulation_steps and steps_per_generation",
    ),
    **_all("num_total_batches world_size", "it follows from the others; leave it out"),
    **_all("num_sample_generations", "use eval_steps"),
    **_all("stop_token stop_token_id", "a response ends at the tokenizer's and the model's end-of-text tokens; set them there", "eos"),
    **_all("missing_eos_penalty", "take it off in a reward: completion_ids shows whether a response ended"),
    **_all("sft_model_path", "give it as `model`; the reference is its copy"),
    **_all("reward_model_path", "give a function as `reward_funcs`"),
    **_all("model_adapter_name ref_adapter_name", "give `peft_config`; the reference is the model without its adapters"),
    **_all("exp_name", "use run_name"),
    **_all("dataset_num_proc", "map the data set before; leave it out"),
}

REFUSED = GRPO | TRANSFORMERS | EARLIER

TRAINER: dict[str, Refused] = {  # of GRPOTrainer itself
    **_all("reward_processing_classes", "a reward model of yours is a function here; it knows its own tokenizer"),
    **_all("optimizers", "the optimiser is AdamW; use learning_rate and warmup_steps", (None, None)),
    **_all("quantization_config", "quantised weights cannot be trained here; use peft_config on whole ones"),
    **_all("tools environment_factory", "an `environment` answers the policy's turns (docs/tutorial.md#4-train)"),
    **_all("rollout_func", "write an engine (docs/extend.md#a-sampler), or give an `environment`"),
    **_all("ref_model", "the reference is a copy of `model`"),
    **_all("value_model", "the critic starts from `model`; use critic={...}"),
    **_all("reward_model", "give a function as `reward_funcs`"),
    **_all("tokenizer", "it is called processing_class"),
}
