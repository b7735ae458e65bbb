"""Which architectures can be trained: tiny random models of each, put through all that a run does.

`python -m tests.architectures` writes `docs/architectures.md` and ends with 1 where anything is wrong without being refused by name.
Names given as arguments try these alone and write nothing. A part of the table is in the tests.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from vrpo.config import GenerationConfig, TrainConfig
from vrpo.critics.value_model import ValueModel
from vrpo.errors import UserError
from vrpo.models.forward import policy_forward
from vrpo.models.lm_head import LanguageModelHead
from vrpo.models.states import backbone_of, backbone_states
from vrpo.rollout.engines.transformers import check_model, generate
from vrpo.tasks.math.chain import new_tokenizer
from vrpo.training.trainer import Trainer

TABLE = Path(__file__).parents[1] / "docs" / "architectures.md"
CLOSE = 5e-4  # of the logits' spread; recurrent layers keep their state in float32, which Zamba2 shows most

COMMON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 48}
COMMON |= {"max_position_embeddings": 64, "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SHARED_EXPERT = EXPERTS | {"shared_expert_intermediate_size": 16}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16}
ROUTED = EXPERTS | {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1}
WINDOW = {"sliding_window": 4}
WIDE = {"head_dim": 16}
MIXED = {"layer_types": ["sliding_attention", "full_attention"]}
GATED = WIDE | {"linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16}
GATED |= {"layer_types": ["linear_attention", "full_attention"]}
CONV = {"layer_types": ["conv", "full_attention"]}
SSM = {"mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_expand": 2, "mamba_chunk_size": 8}
JAMBA = {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False, "mamba_d_state": 8}

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {  # name in the table: configuration class and what differs from COMMON
    "Llama": ("Llama", {}),
    "Llama, tied": ("Llama", {"tie_word_embeddings": True}),
    "Mistral, window": ("Mistral", WINDOW),
    "Ministral": ("Ministral", WIDE | WINDOW),
    "Mixtral": ("Mixtral", EXPERTS),
    "Qwen2": ("Qwen2", {}),
    "Qwen2-MoE": ("Qwen2Moe", SHARED_EXPERT),
    "Qwen3": ("Qwen3", WIDE),
    "Qwen3-MoE": ("Qwen3Moe", EXPERTS | WIDE),
    "Qwen3-Next": ("Qwen3Next", SHARED_EXPERT | GATED),
    "Qwen3.5": ("Qwen3_5Text", GATED),
    "Gemma": ("Gemma", WIDE),
    "Gemma 2": ("Gemma2", WIDE | WINDOW | {"query_pre_attn_scalar": 16, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0}),
    "Gemma 3": ("Gemma3Text", WIDE | WINDOW | MIXED | {"query_pre_attn_scalar": 16}),
    "Gemma 3n": (
        "Gemma3nText",
        WIDE
        | WINDOW
        | MIXED
        | {"vocab_size_per_layer_input": 20, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0, "laurel_rank": 4}
        | {"activation_sparsity_pattern": None},
    ),
    "Phi": ("Phi", {}),
    "Phi-3": ("Phi3", {}),
    "Phi-MoE": ("Phimoe", EXPERTS),
    "GPT-2": ("GPT2", GPT),
    "GPT-J": ("GPTJ", GPT | {"rotary_dim": 8}),
    "GPT-Neo": ("GPTNeo", {"num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]], "window_size": 4}),
    "GPT-NeoX": ("GPTNeoX", {}),
    "GPT-BigCode": ("GPTBigCode", GPT),
    "gpt-oss": ("GptOss", EXPERTS | WIDE | WINDOW),
    "OpenAI GPT": ("OpenAIGPT", GPT),
    "OPT-125m like": ("OPT", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "OPT-350m like": ("OPT", {"ffn_dim": 48, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "BLOOM": ("Bloom", {"n_layer": 2, "n_head": 2}),
    "Falcon": ("Falcon", {}),
    "Falcon, ALiBi": ("Falcon", {"alibi": True}),
    "MPT": ("Mpt", {"d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 64}),
    "StableLM": ("StableLm", {}),
    "StarCoder2": ("Starcoder2", {}),
    "CodeGen": ("CodeGen", GPT | {"num_attention_heads": 4, "n_head": 4, "rotary_dim": 8}),
    "CTRL": ("CTRL", GPT | {"dff": 48}),
    "Cohere": ("Cohere", {"logit_scale": 0.0625}),
    "Cohere2": ("Cohere2", WIDE | WINDOW | {"logit_scale": 0.0625}),
    "Granite": ("Granite", {"logits_scaling": 8.0}),
    "Granite-MoE": ("GraniteMoe", EXPERTS | {"logits_scaling": 8.0}),
    "Granite 4 hybrid": (
        "GraniteMoeHybrid",
        EXPERTS | SSM | {"logits_scaling": 4.0, "layer_types": ["mamba", "attention"], "shared_intermediate_size": 16},
    ),
    "OLMo": ("Olmo", {}),
    "OLMo 2": ("Olmo2", {}),
    "OLMo 3": ("Olmo3", WINDOW),
    "OLMoE": ("Olmoe", EXPERTS),
    "DeepSeek-V2": ("DeepseekV2", LATENT | ROUTED),
    "DeepSeek-V3": ("DeepseekV3", LATENT | ROUTED),
    "MiniCPM3": ("MiniCPM3", LATENT | {"dim_model_base": 16}),
    "GLM": ("Glm", WIDE),
    "GLM-4": ("Glm4", WIDE),
    "GLM-4 MoE": ("Glm4Moe", WIDE | ROUTED),
    "SmolLM3": ("SmolLM3", {}),
    "Nemotron": ("Nemotron", {}),
    "Persimmon": ("Persimmon", {}),
    "XGLM": ("XGLM", {"d_model": 32, "num_layers": 2, "attention_heads": 2, "ffn_dim": 48}),
    "BioGPT": ("BioGpt", {}),
    "Helium": ("Helium", WIDE),
    "ERNIE 4.5": ("Ernie4_5", WIDE),
    "HunYuan": ("HunYuanDenseV1", WIDE),
    "HyperCLOVA X": ("HyperCLOVAX", {"logits_scaling": 0.5}),
    "EXAONE 4": ("Exaone4", WINDOW),
    "Arcee": ("Arcee", {}),
    "dots1": ("Dots1", ROUTED | WIDE | WINDOW),
    "Seed-OSS": ("SeedOss", WIDE),
    "Apertus": ("Apertus", {}),
    "DiffLlama": ("DiffLlama", {}),
    "NanoChat": ("NanoChat", {}),
    "Llama 4": (
        "Llama4Text",
        EXPERTS
        | WIDE
        | {"intermediate_size_mlp": 48, "attention_chunk_size": 4, "layer_types": ["chunked_attention", "full_attention"]}
        | {"interleave_moe_layer_step": 2},
    ),
    "ModernBERT decoder": ("ModernBertDecoder", {"local_attention": 4, "cls_token_id": 0, "sep_token_id": 1}),
    "LFM2": ("Lfm2", CONV),
    "LFM2-MoE": ("Lfm2Moe", EXPERTS | CONV | {"num_dense_layers": 1}),
    "Jamba": ("Jamba", JAMBA | {"expert_layer_period": 2, "num_experts": 2, "mamba_dt_rank": 4}),
    "Zamba2": (
        "Zamba2",
        {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2, "layer_types": ["linear_attention", "hybrid"] * 2}
        | {"mamba_d_state": 8, "n_mamba_heads": 4, "mamba_headdim": 16, "mamba_ngroups": 1, "chunk_size": 8, "num_mem_blocks": 1}
        | {"use_mamba_kernels": False},
    ),
    "Falcon-H1": ("FalconH1", SSM | WIDE | {"mamba_d_ssm": 64, "lm_head_multiplier": 0.5}),
    "Bamba": ("Bamba", SSM | {"attn_layer_indices": [1]}),
    "OLMo hybrid": ("OlmoHybrid", GATED),
    "RecurrentGemma": ("RecurrentGemma", WIDE | {"lru_width": 32, "attention_window_size": 8, "num_hidden_layers": 3}),
    "MiniMax": ("MiniMax", EXPERTS | WIDE | {"layer_types": ["linear_attention", "full_attention"], "block_size": 8}),
    "Mamba": ("Mamba", {"state_size": 8}),
    "Mamba2": ("Mamba2", {"state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 8}),
    "Falcon-Mamba": ("FalconMamba", {"state_size": 8}),
    "RWKV": ("Rwkv", {"attention_hidden_size": 32, "context_length": 64}),
    "xLSTM": ("xLSTM", {"num_heads": 2, "num_blocks": 2, "chunk_size": 16}),
    "BERT as decoder": ("Bert", {"is_decoder": True}),
}


@cache
def _tokenizer() -> Any:
    return new_tokenizer()


def new_model(name: str) -> Any:
    """A tiny random model; biases and norms too are random, so that one left out is seen."""
    kind, changes = ARCHITECTURES[name]
    config = getattr(transformers, f"{kind}Config")(**(COMMON | {"vocab_size": len(_tokenizer())} | changes))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for place, parameter in model.named_parameters():
            if place.endswith("bias") or "norm" in place:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def digits(prompts: list[str], responses: list[str], **columns: Any) -> list[float]:
    return [float(sum(character.isdigit() for character in text) >= 0.3 * max(len(text), 1)) for text in responses]


def train(model: Any, method: str, **changes: Any) -> Trainer:
    """One iteration, of a value warm-up where the method has one."""
    settings = {"iterations": 1, "rollouts": 24, "group_size": 4, "minibatches": 1, "learning_rate": 1e-2, "lr_warmup": 0}
    settings |= {"monte_carlo_prefixes": 0, "critic": {"warmup_rollouts": 8, "warmup_epochs": 1, "latent_size": 4}} | changes
    problems = [{"prompt": f"{a}+{b}" + "-1" * (a % 3) + ".:"} for a in range(1, 5) for b in range(1, 5)]
    generation = GenerationConfig(max_new_tokens=6)
    run = Trainer(TrainConfig.model_validate(settings), model, _tokenizer(), problems, digits, method=method, generation=generation)
    run.run()
    return run


def agree(found: Tensor, expected: Tensor, what: str, spread: float = 1.0) -> None:
    off = float((found - expected).abs().max()) / spread
    if not off <= CLOSE:
        raise AssertionError(f"{what} off by {off:.2g}")


@torch.no_grad()
def rollouts(model: Any) -> None:
    """Log-probabilities of sampling and of scoring are the plain model's."""
    prompts = [[3, 4, 5, 9, 8, 7], [6, 7], [6, 7], [5, 6, 7, 8, 9, 10, 11, 12, 13], [12]]
    check_model(model)
    rollout = generate(model, prompts, max_new_tokens=8, temperature=1.0, eos_token_id=[1, 9, 10, 11], pad_token_id=2, seed=0)
    scored = policy_forward(model, rollout, 1.0).logprobs
    for row, prompt in enumerate(prompts):
        mask = rollout.response_mask[row]
        ids = torch.tensor([prompt + rollout.responses[row, mask].tolist()])
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
        plain = logits.log_softmax(-1).gather(-1, ids[0, len(prompt) :, None])[:, 0]
        for what, found in (("sampling", rollout.logprobs), ("scoring", scored)):
            agree(found[row, mask], plain, what, max(1.0, float(logits.std())))


@torch.no_grad()
def _padded_values(critic: ValueModel) -> None:
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    padded = torch.tensor([[0, 0, 5, 6, 7, 8, 9]])
    plain = critic(ids, torch.ones_like(ids, dtype=torch.bool)).values
    agree(critic(padded, padded > 0).values[:, 2:], plain, "padded values")


def value_model(model: Any) -> None:
    """PPO trains, with a backbone of its own and a shared one; values do not depend on padding; a shared pass gives the critic's own states."""
    _padded_values(train(copy.deepcopy(model), "ppo").critic)
    run = train(model, "ppo", critic={"backbone": "shared", "warmup_rollouts": 8, "warmup_epochs": 1})
    rollout = generate(model, [[5, 6, 7], [8]], max_new_tokens=4, temperature=1.0, eos_token_id=1, pad_token_id=2, seed=0)
    with torch.no_grad():
        shared, own = policy_forward(model, rollout, 1.0, hidden=True).hidden, run.critic.states(rollout)
    agree(shared[rollout.response_mask], own[rollout.response_mask], "shared states")


def semantic_losses(model: Any) -> None:
    """The head on the backbone's states gives the model's logits, and VRPO trains with it, surprisal inputs included."""
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
        states = backbone_states(backbone_of(model), ids, torch.ones_like(ids, dtype=torch.bool))
        agree(LanguageModelHead.of(model).logits(states), logits, "the head", float(logits.std()))
    train(model, "vrpo", critic={"surprisal_inputs": True, "warmup_rollouts": 8, "warmup_epochs": 1})


def adapters(model: Any) -> None:
    """PPO trains adapters on policy and critic; what is saved has them folded in."""
    run = train(model, "ppo", lora={"rank": 2, "alpha": 8.0})
    saved_is_trained(run)
    loose = [place for place, parameter in run.policy.named_parameters() if parameter.requires_grad and "lora_" not in place]
    if loose:
        raise AssertionError(f"{loose[0]} is trained beside the adapters")


def saving(model: Any) -> None:
    """Full training: a plain reload says what the trained models say."""
    saved_is_trained(train(model, "ppo"))


@torch.no_grad()
def saved_is_trained(run: Trainer) -> None:
    ids = torch.tensor([[5, 6, 7, 8, 9, 10], [4, 4, 3, 12, 13, 1]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    with TemporaryDirectory() as folder:
        run.save_pretrained(folder)
        policy = AutoModelForCausalLM.from_pretrained(f"{folder}/policy").eval()
        critic = ValueModel.from_pretrained(f"{folder}/value_model")
        logits = run.policy(input_ids=ids, use_cache=False).logits
        agree(policy(input_ids=ids, use_cache=False).logits, logits, "the saved policy", max(1.0, float(logits.std())))
        agree(critic(ids, mask).values, run.critic(ids, mask).values, "the saved value model")


CELLS: dict[str, Callable[[nn.Module], None]] = {
    "rollouts": rollouts,
    "value model": value_model,
    "semantic losses": semantic_losses,
    "LoRA": adapters,
    "save and reload": saving,
}


def verdict(name: str, cell: str) -> str:
    """ "right", "refused: reason", or "WRONG: what"."""
    try:
        CELLS[cell](new_model(name))
    except UserError as error:
        return f"refused: {error}"
    except Exception as error:
        return f"WRONG: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return "right"


def main(names: list[str]) -> int:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    reasons: dict[str, int] = {}
    rows, wrong = [], 0
    for name in names or ARCHITECTURES:
        found = [verdict(name, cell) for cell in CELLS]
        wrong += sum(text.startswith("WRONG") for text in found)
        marks = [text if text == "right" else f"{text.split(':')[0]} ({reasons.setdefault(text, len(reasons) + 1)})" for text in found]
        rows.append(f"| {name} | {' | '.join(marks)} |")
        print(rows[-1], flush=True)
    notes = [f"{number}. {reason}" for reason, number in reasons.items()]
    print("\n".join(notes))
    if not names:
        head = [
            "# Architectures",
            "",
            f"Tiny random models of transformers {transformers.__version__}, made by `python -m tests.architectures`. *Right*: padded, cached",
            "sampling and scoring give the plain model's log-probabilities; values, head, adapters and what is saved are the model's own.",
            "*Refused*: an error that says so, before any work. What the cells mean: [concepts](concepts.md).",
            "",
            f"| model | {' | '.join(CELLS)} |",
            "| --- |" + " --- |" * len(CELLS),
        ]
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text("\n".join([*head, *rows, "", *notes]) + "\n", encoding="utf-8")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
