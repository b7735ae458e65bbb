"""A policy small enough to train in a test, on chains of one to three operations."""

import pytest
import torch

from vrpo.tasks.chain import ChainTask, generate_problems, new_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return new_tokenizer()


@pytest.fixture
def policy(tokenizer):
    return tiny_policy(tokenizer)


def tiny_policy(tokenizer, seed: int = 0):
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


@pytest.fixture(scope="session")
def task():
    return ChainTask(max_length=3)


@pytest.fixture(scope="session")
def problems(task):
    rows = generate_problems(40, 0, 1, 3, set())
    return [{"prompt": task.prompt(row["question"]), "id": str(i), "answer": row["answer"]} for i, row in enumerate(rows)]
