"""A policy small enough to train in a test, runs of a few seconds, and how to compare them."""

import copy
import string

import torch

from vrpo.config import GenerationConfig, TrainConfig
from vrpo.training.trainer import Trainer

METHODS = ["ppo", "vrpo", "grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce", "regulated", "regulated_gradient"]


def tiny_policy(tokenizer, seed: int = 4):  # a seed whose responses have many lengths
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,  # far from uniform, so that samples and advantages vary
    )
    return LlamaForCausalLM(config)


def reading_policy(folder):
    """A policy that knows nothing, in a folder; its tokenizer reads any text, character by character."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from vrpo.models.loading import new_llama, save_model

    known = {token: index for index, token in enumerate(["<pad>", "<eos>", *string.printable])}
    core = Tokenizer(models.WordLevel(known, unk_token="<pad>"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated"), decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>", padding_side="left")
    save_model(new_llama(tokenizer, hidden_size=16, layers=1, heads=2, seed=0), tokenizer, folder)
    return folder


BASE = {
    "iterations": 3,
    "rollouts": 96,
    "group_size": 4,
    "minibatches": 2,
    "micro_batch_size": 64,
    "learning_rate": 1e-2,
    "measure_every": 1,
    "monte_carlo_prefixes": 6,
    "monte_carlo_samples": 2,
    "critic": {"warmup_rollouts": 24, "warmup_epochs": 1, "latent_size": 4},
}


def config(**changes) -> TrainConfig:
    merged = copy.deepcopy(BASE)
    for key, value in changes.items():
        merged[key] = merged.get(key, {}) | value if isinstance(value, dict) else value
    return TrainConfig.model_validate(merged)


def count_digits(prompts, responses, **columns) -> list[float]:
    """A reward that random policies get sometimes: the share of digits is high."""
    return [float(sum(c.isdigit() for c in text) >= 0.5 * max(len(text), 1)) for text in responses]


def trainer(tokenizer, problems, method="vrpo", seed=0, reward=count_digits, **kwargs) -> Trainer:
    settings = config(**kwargs.pop("changes", {}))
    generation = GenerationConfig(max_new_tokens=8, batch_size=kwargs.pop("batch_size", 512))
    policy, validation = tiny_policy(tokenizer), problems[:8]
    return Trainer(
        settings, policy, tokenizer, problems, reward, method=method, seed=seed, generation=generation, validation=validation, **kwargs
    )


def weights(run: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in run.updater.models.state_dict().items()}


def timeless(log: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key != "tokens_per_second"} for row in log]


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float = 0.0) -> None:
    """Up to `tolerance`, of a tensor's largest number where that is above 1: sums over a batch grow with it."""
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name] - b[name]).abs().max() <= tolerance * max(1.0, float(a[name].abs().max())), name
