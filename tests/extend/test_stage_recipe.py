"""A stage is its module and its entry in dvc.yaml: that of docs/extend.md, run by DVC in a copy of the project."""

import json

import pytest
import yaml


@pytest.fixture(scope="module")
def said(copy) -> list[str]:
    """What DVC says when it brings the stage up to date: at first, again, and with other parameters, of which it names one."""
    path, said = copy.folder / "params.yaml", []
    params = yaml.safe_load(path.read_text()) | {"profile": "mini"}
    for length in (2, 2, 3):
        params["profiles"]["mini"]["prepare"]["max_length"] = length
        path.write_text(yaml.safe_dump(params, sort_keys=False))
        said.append(copy.run("-m", "dvc", "repro", "hardest"))
    return said


def test_dvc_runs_it_after_what_it_needs_and_nothing_else(copy, said: list[str]) -> None:
    stages = ["params", "prepare", "hardest"]
    assert [f"Running stage '{stage}'" in said[0] for stage in stages] == [True, True, True] and said[0].count("Running stage") == 3
    table = (copy.folder / "data/hardest.md").read_text().splitlines()
    assert table[0] == "Hardest of 24 problems" and len(table) == 4 + 5
    questions = [line.split("`")[1] for line in table[4:]]
    assert [len(question) for question in questions] == sorted(map(len, questions), reverse=True)


def test_nothing_runs_again_until_what_it_needs_is_another(said: list[str]) -> None:
    assert "Running stage" not in said[1]
    assert said[2].count("Running stage") == 3


def test_its_metrics_and_records_are_there(copy, said: list[str]) -> None:
    metrics = json.loads((copy.folder / "data/metrics/hardest.json").read_text())
    assert metrics.keys() == {"shown", "characters"} and metrics["shown"] == 5 and metrics["characters"] > 3
    assert json.loads((copy.folder / "data/costs/hardest.json").read_text()).keys() == {"seconds", "peak_memory_mb"}
    events = [json.loads(line) for line in (copy.folder / "data/tracking/hardest.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events if event["event"] in ("start", "artifact", "end")][-3:] == ["start", "artifact", "end"]


def test_its_entry_is_held_against_its_imports(copy) -> None:
    done = copy.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/pipeline/test_graph.py", "-k", "hardest or short")
    assert "4 passed" in done
