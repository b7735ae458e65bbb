"""`vrpo benchmark`: what a model is worth on questions in local files; nothing is recorded."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def files(tmp_path):
    (tmp_path / "files").mkdir()
    rows = [{"question": f"{n} + {n} = ?", "answer": 2 * n} for n in range(5)]
    (tmp_path / "files/amc23.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_results_file_per_benchmark_and_model(vrpo, files):
    """On a tiny policy that answers nonsense."""
    code, out, _ = vrpo("benchmark policy amc23 --files files --samples 2 --problems 3 --max-new-tokens 4 --seed 5")
    assert code == 0 and out.startswith("amc23: avg@2 0.000 [0.0, 0.708], maj@2 0.000 [0.0, 0.708], pass@1 0.000") and out.count("\n") == 1
    result = json.loads(Path("benchmarks/policy/amc23.json").read_text())
    assert (result["benchmark"], result["problems"], result["samples"], result["seed"]) == ("amc23", 3, 2, 5)
    assert result["avg@2"] == {"mean": 0.0, "ci95": [0.0, pytest.approx(1 - 0.025 ** (1 / 3))], "n": 3}  # three wrong ones prove little
    assert result["generation"]["max_new_tokens"] == 4 and 0 <= result["truncated"] <= 1 and result["seconds"] > 0
    rows = [json.loads(line) for line in Path("benchmarks/policy/amc23.responses.jsonl").read_text().splitlines()]
    assert [len(row["responses"]) for row in rows] == [2, 2, 2]
    assert {path.name for path in Path().iterdir()} == {"policy", "prompts.jsonl", "rewards.py", "files", "benchmarks"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("policy amc32", "argument NAME: there is no 'amc32'; use one of gsm8k"),
        ("files amc23", "argument MODEL: 'files': no model's folder, it holds no config.json"),
        ("package:no-such-model amc23", "argument MODEL: 'package:no-such-model': not installed"),
        ("policy amc23 --files nowhere", "argument --files: 'nowhere': no such folder"),
        ("policy amc23 --output prompts.jsonl", "argument --output: 'prompts.jsonl': cannot be written to"),
    ],
)
def test_a_mistake_is_one_line(vrpo, files, arguments, said):
    code, out, err = vrpo(f"benchmark {arguments}")
    assert (code, out) == (2, "") and err.startswith(f"error: {said}") and err.count("\n") == 1
