"""Science: multiple choice, made to measure from physics or read from benchmarks."""

from vrpo.tasks.science.task import ScienceTask, option_lines, read_option

__all__ = ["ScienceTask", "option_lines", "read_option"]
