"""The benchmark command of the pipeline: what `vrpo benchmark` does, with a record for MLflow and the parameters' seed."""

import json

import pytest

from pipeline.tools import benchmark
from tests.vrpo.tiny import reading_policy


def test_a_results_file_and_a_record_per_benchmark_and_model(tmp_path, monkeypatch):
    """The whole command, on a tiny policy that answers nonsense."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    (tmp_path / "params.yaml").write_text("evaluate: {seed: 7}")
    (tmp_path / "files").mkdir()
    rows = [{"question": f"{n} + {n} = ?", "answer": 2 * n} for n in range(5)]
    (tmp_path / "files" / "amc23.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [
        "benchmark",
        str(reading_policy(tmp_path / "policy")),
        "amc23",
        "--files",
        "files",
        "--samples",
        "2",
        "--problems",
        "3",
        "--max-new-tokens",
        "4",
    ]
    monkeypatch.setattr("sys.argv", command)
    benchmark.main()
    (folder,) = (tmp_path / "data/benchmarks").iterdir()
    result = json.loads((folder / "amc23.json").read_text())
    assert (result["benchmark"], result["problems"], result["samples"]) == ("amc23", 3, 2)
    assert result["avg@2"] == {"mean": 0.0, "ci95": [0.0, pytest.approx(1 - 0.025 ** (1 / 3))], "n": 3}  # three wrong ones prove little
    assert result["seed"] == 7
    responses = [json.loads(line) for line in (folder / "amc23.responses.jsonl").read_text().splitlines()]
    assert [len(row["responses"]) for row in responses] == [2, 2, 2]
    events = [json.loads(line) for line in next((tmp_path / "data/tracking").glob("*.jsonl")).read_text().splitlines()]
    assert events[0]["tags"]["benchmark"] == "amc23"
    assert events[1]["values"]["avg_at_2"] == 0.0
