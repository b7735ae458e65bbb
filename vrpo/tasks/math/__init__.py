"""Mathematics: chains of sums made to measure, and questions of benchmarks, read by math-verify."""

from typing import Any

from vrpo.tasks.base import Domain
from vrpo.tasks.math.chain import ChainTask
from vrpo.tasks.math.rows import read_row
from vrpo.tasks.math.task import MathTask, canonical, last_boxed

__all__ = ["DOMAIN", "MathTask", "canonical", "last_boxed"]


def _oracle(tokenizer: Any) -> Any:
    from vrpo.tasks.math.chain_oracle import ChainOracle  # needs torch

    return ChainOracle(tokenizer)


DOMAIN = Domain(
    title="chain arithmetic",
    procedural=ChainTask,
    on_rows=MathTask,
    rows_title="free-form math",
    read_row=read_row,
    oracle=_oracle,
)
