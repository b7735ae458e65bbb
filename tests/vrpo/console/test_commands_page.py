"""docs/console.md: its data, reward and first command do what the page says, and it tells of every command."""

import json
import re
import shlex
from pathlib import Path

from vrpo.console.main import commands

PAGE = (Path(__file__).parents[3] / "docs/console.md").read_text()


def block(language: str, has: str) -> str:
    return next(code for code in re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE) if has in code)


def test_the_example_of_score_runs_as_it_stands(vrpo):
    Path("prompts.jsonl").unlink()
    Path("prompts.jsonl").write_text(block("json", "prompt"))
    Path("my_rewards.py").write_text(block("python", "def right"))
    Path("policy").rename("my-model")
    code, out, _ = vrpo(shlex.join(shlex.split(block("sh", "vrpo score"))[1:]))
    rows = [json.loads(line) for line in Path("scored.jsonl").read_text().splitlines()]
    assert code == 0 and out.startswith("mean ") and "over 3 prompts x 4; 0.0% unscored" in out
    assert [*rows[0]] == ["prompt", "answer", "sample", "response", "score"] and len(rows) == 12


def test_every_command_has_its_heading():
    assert [name for name in commands() if f"\n## vrpo {name}\n" not in PAGE] == []
