"""Fixtures: the tiny policy, on chains of one to three operations."""

import pytest
from tiny import tiny_policy

from vrpo.tasks.math.chain import ChainTask, generate_problems, new_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return new_tokenizer()


@pytest.fixture
def policy(tokenizer):
    return tiny_policy(tokenizer)


@pytest.fixture(scope="session")
def task():
    return ChainTask(max_length=3)


@pytest.fixture(scope="session")
def problems(task):
    rows = generate_problems(40, 0, 1, 3, set())
    return [{"prompt": task.prompt(row["question"]), "id": str(i), "answer": row["answer"]} for i, row in enumerate(rows)]
