"""Mathematics: chains of sums made to measure, and questions of benchmarks, read by math-verify."""

from vrpo.tasks.math.task import MathTask, canonical, last_boxed

__all__ = ["MathTask", "canonical", "last_boxed"]
