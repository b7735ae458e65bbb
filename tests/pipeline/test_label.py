"""Labels: wrong references are wrong, however answers are spelled, as many as asked for, the same for a seed."""

import math

import pytest

from pipeline.files import read_jsonl, write_jsonl
from pipeline.params import Params
from pipeline.stages import label
from pipeline.workspace import Workspace
from vrpo.errors import UserError
from vrpo.tasks.science.task import ScienceTask


@pytest.mark.parametrize("letters", ["AB", "ABC"])
def test_a_wrong_reference_is_another_option(tmp_path, letters):
    """Science: `B. copper` and `B. gold` are lines of different questions, but the same letter."""
    rows = [{"id": f"{n}", "question": "Which?", "answer": f"{letters[n % len(letters)]}. text {n}"} for n in range(60)]
    for split in ("train", "test"):
        write_jsonl(tmp_path / f"data/prepared/{split}.jsonl", rows)
    params = Params(
        domain="science", prepare={"dataset": "mine.jsonl"}, label={"source": "clean", "wrong_reference_rate": 0.5}, base={"source": "none"}
    )
    metrics = label.run(params, None, Workspace(tmp_path))
    written = read_jsonl(tmp_path / "data/labels/train.jsonl")
    changed = [row for row in written if row["label"] != row["clean"]]
    assert 15 < len(changed) < 45
    task = ScienceTask()
    scores = task.verify([task.canonical_response(row["clean"]) for row in changed], [row["label"] for row in changed])
    assert scores == [0.0] * len(changed)
    assert metrics["train/label_accuracy"] == pytest.approx(1 - len(changed) / 60)


def test_wrong_references_hit_their_rate_and_depend_on_the_seed_alone(tmp_path):
    count, rate = 2000, 0.4
    rows = [{"id": f"{n}", "question": "Which?", "answer": f"{'ABCD'[n % 4]}. text {n}"} for n in range(count)]

    def wrong(seed: int, order: int) -> set[str]:
        for split in ("train", "test"):
            write_jsonl(tmp_path / f"data/prepared/{split}.jsonl", rows[::order])
        config = {"source": "clean", "wrong_reference_rate": rate, "seed": seed}
        label.run(
            Params(domain="science", prepare={"dataset": "mine.jsonl"}, label=config, base={"source": "none"}), None, Workspace(tmp_path)
        )
        return {row["id"] for row in read_jsonl(tmp_path / "data/labels/train.jsonl") if row["label"] != row["clean"]}

    first = wrong(seed=0, order=1)
    assert len(first) / count == pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / count))
    assert wrong(seed=0, order=-1) == first
    assert len(wrong(seed=1, order=1) & first) / count == pytest.approx(rate**2, abs=0.05)


def test_training_rows_without_a_label_are_no_clean_labels(tmp_path):
    rows = [{"id": f"{n}", "question": "Which?", "answer": f"{'ABCD'[n % 4]}. text {n}", "label": "A. text 0"} for n in range(8)]
    params = Params(domain="science", prepare={"dataset": "mine.jsonl"}, label={"source": "dataset"}, base={"source": "none"})
    write_jsonl(tmp_path / "data/prepared/test.jsonl", [{key: value for key, value in row.items() if key != "label"} for row in rows])
    write_jsonl(tmp_path / "data/prepared/train.jsonl", rows)
    assert label.run(params, None, Workspace(tmp_path))["train/label_accuracy"] == 0.25
    for broken in ({"id": "8", "question": "Which?", "answer": "A. text 8"}, rows[0] | {"id": "8", "label": None}):
        write_jsonl(tmp_path / "data/prepared/train.jsonl", [*rows, broken])
        with pytest.raises(UserError, match="label.source = 'dataset', but 1 of 9 training rows have no `label`, e.g. 8; add it"):
            label.run(params, None, Workspace(tmp_path))


@pytest.mark.parametrize("readable", [0, 3])
def test_a_model_whose_answers_nobody_can_read_is_told_of_clean_labels(tmp_path, monkeypatch, capsys, readable):
    """As a chat model's are that writes sentences."""
    for split in ("train", "test"):
        write_jsonl(tmp_path / f"data/prepared/{split}.jsonl", [{"id": f"{n}", "question": "1+1.:", "answer": "2"} for n in range(8)])
    labels = ["2"] * readable + [None] * (8 - readable)
    monkeypatch.setattr(label, "_vote", lambda params, splits, workspace: {name: (labels, []) for name in splits})
    params = Params(base={"source": "my-chat-model"}, domain="math")
    if readable:
        label.run(params, None, Workspace(tmp_path))
        said = capsys.readouterr().err.splitlines()[0]
        assert said.startswith("warning: only 3 of 8 train problems got a label")
    else:
        with pytest.raises(UserError) as error:
            label.run(params, None, Workspace(tmp_path))
        said = str(error.value)
        assert said.startswith(
            "label.source = 'majority_vote': the base model 'my-chat-model' gave no readable answer to any train problem"
        )
    assert "label.source: clean takes the data's own answers instead" in said
