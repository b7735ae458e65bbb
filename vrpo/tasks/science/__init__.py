"""Science: multiple choice, made to measure from physics or read from benchmarks."""

from vrpo.tasks.base import Domain
from vrpo.tasks.science.physics import PhysicsTask
from vrpo.tasks.science.rows import read_row
from vrpo.tasks.science.task import ScienceTask, option_lines, read_option

__all__ = ["DOMAIN", "ScienceTask", "option_lines", "read_option"]

DOMAIN = Domain(
    title="science questions with options",
    procedural=PhysicsTask,
    on_rows=ScienceTask,
    rows_title="science benchmarks",
    read_row=read_row,
)
