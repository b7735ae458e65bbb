"""Validation of the prepared data: each kind of breach is found, by its own line, and nothing else is."""

import json
import os
import re
from pathlib import Path

import pytest

from pipeline.environment import TELEMETRY_OFF
from pipeline.files import write_jsonl
from pipeline.params import Params
from pipeline.stages import validate
from vrpo.errors import UserError

os.environ.update(TELEMETRY_OFF)
SIZES = {"train": 20, "validation": 6, "test": 8}
Splits = dict[str, list[dict]]


class Record:
    """Stands in for `tracking.Record`."""

    def artifact(self, path: Path) -> None:
        assert Path(path).exists()


def good() -> Splits:
    def row(split: str, i: int) -> dict:
        return {"id": f"{split}-{i}", "question": f"{split} {i} + 1 =", "answer": str(i % 10), "source": "made up", "licence": "CC0-1.0"}

    return {split: [row(split, i) for i in range(size)] for split, size in SIZES.items()}


def run(root: Path, splits: Splits, monkeypatch: pytest.MonkeyPatch, label_noise: float = 0.0) -> dict:
    for split, rows in splits.items():
        write_jsonl(root / f"data/prepared/{split}.jsonl", rows)
    monkeypatch.chdir(root)
    return validate.run(Params(prepare={"label_noise": label_noise}), Record())


def breaches(root: Path, splits: Splits, monkeypatch: pytest.MonkeyPatch, **options: float) -> list[str]:
    with pytest.raises(UserError) as error:
        run(root, splits, monkeypatch, **options)
    return str(error.value).splitlines()[1:]


def test_the_same_data_give_the_same_files(tmp_path, monkeypatch):
    """Great Expectations writes times and random names into its pages: DVC would take them for other outputs."""
    found = []
    for _ in range(2):
        run(tmp_path, good(), monkeypatch)
        found.append({path: path.read_text() for path in Path("data/validation").rglob("*") if path.is_file()})
    assert len(found[0]) == 8 and found[0].keys() == found[1].keys()
    assert [path for path in found[0] if found[0][path] != found[1][path]] == []
    assert not any("1970-" in text for text in found[0].values())


def test_good_data_passes_and_the_outputs_open_offline(tmp_path, monkeypatch):
    stale = tmp_path / "data/validation/docs/stale.html"
    stale.parent.mkdir(parents=True)
    stale.touch()
    metrics = run(tmp_path, good(), monkeypatch)
    assert [metrics[f"rows_{split}"] for split in SIZES] == [20, 6, 8]
    assert (metrics["breaches"], metrics["warnings"], metrics["label_noise"]) == (0, 0, 0.0)
    summary = json.loads(Path("data/validation/summary.json").read_text())
    assert summary["success"] and len(summary["expectations"]) == metrics["checks"] == 63
    assert all({"name", "split", "success", "observed"} <= check.keys() and check["success"] for check in summary["expectations"])
    docs = Path("data/validation/docs")
    pages = list(docs.rglob("*.html"))
    assert len(pages) == 7 and not stale.exists()  # index, and for each split the suite and the result
    for page in pages:
        text = page.read_text()
        assert not re.search(r"""src\s*=\s*["']?https?:|<link\b|<script\b|@import|url\(\s*["']?https?:""", text), page
    links = re.findall(r'href="([^"]+)"', (docs / "index.html").read_text())
    assert len(links) == 3 and all((docs / link).is_file() for link in links)


def spoil(splits: Splits) -> list[str]:
    """Break every rule once, each in rows of its own; returns the line that each breach has to give."""
    train, validation, test = splits.values()
    train[3]["id"] = "train-9"
    train[1]["source"] = 3
    train[8]["answer"] = "twelve"
    for row in train[10:13]:
        row["label"] = str((int(row["answer"]) + 1) % 10)
    validation[4]["question"] = " \n"
    for row in validation:
        del row["licence"]
    test[2]["id"] = "validation-1"
    test[5]["question"] = "  train 7\n+  1 = "
    test[6]["question"] = validation[0]["question"]
    test[7]["label"] = "3"
    return [
        'train: "ids are unique" does not hold: 2 rows, e.g. train-9',
        'train: "source is non-empty text" does not hold: 1 rows, e.g. train-1',
        'train: "the verifier accepts the gold answer" does not hold: 1 rows, e.g. train-8',
        'train: "labels that differ from the answer are at most the declared share (prepare.label_noise = 0)" '
        "does not hold: 3 rows, observed share 0.15, e.g. train-10, train-11, train-12",
        'validation: "question is non-empty text" does not hold: 1 rows, e.g. validation-4',
        'validation: "column licence is present" does not hold: 6 rows, e.g. validation-0, validation-1, validation-2',
        'test: "ids are not in validation" does not hold: 1 rows, e.g. validation-1',
        'test: "questions are not in train" does not hold: 1 rows, e.g. test-5',
        'test: "questions are not in validation" does not hold: 1 rows, e.g. test-6',
        'test: "no label differs from the answer (noisy labels belong in train only)" does not hold: 1 rows, e.g. test-7',
    ]


def test_each_breach_has_its_line_and_summary_and_docs_are_written(tmp_path, monkeypatch):
    splits = good()
    expected = spoil(splits)
    assert sorted(breaches(tmp_path, splits, monkeypatch)) == sorted(expected)
    summary = json.loads(Path("data/validation/summary.json").read_text())
    assert not summary["success"] and summary["breaches"] == len(expected) and summary["label_noise"] == 0.15
    failed = [check for check in summary["expectations"] if not check["success"]]
    assert sorted(check["offending"] for check in failed) == [1, 1, 1, 1, 1, 1, 1, 2, 3, 6]
    assert Path("data/validation/docs/index.html").read_text().count('class="failed"') == len(expected)


@pytest.mark.parametrize("split", SIZES)
def test_an_empty_split_is_the_only_breach(split, tmp_path, monkeypatch):
    assert breaches(tmp_path, good() | {split: []}, monkeypatch) == [f'{split}: "the split holds rows" does not hold: 0 rows']


def test_declared_label_noise_passes_and_its_exact_share_is_reported(tmp_path, monkeypatch):
    splits = good()
    for row in splits["train"]:
        row["label"] = row["answer"]
    for row in splits["train"][:3]:
        row["label"] = str((int(row["answer"]) + 1) % 10)
    assert run(tmp_path, splits, monkeypatch, label_noise=0.15)["label_noise"] == 0.15
    [line] = breaches(tmp_path, splits, monkeypatch, label_noise=0.149)
    assert "prepare.label_noise = 0.149" in line


def test_repeated_training_questions_only_warn(tmp_path, monkeypatch, capsys):
    splits = good()
    splits["train"][4]["question"] = "train 5  + 1 ="
    metrics = run(tmp_path, splits, monkeypatch)
    assert (metrics["breaches"], metrics["warnings"], metrics["duplicate_questions"]) == (0, 1, 2)
    assert "warning: train: " in capsys.readouterr().out


def test_texts_that_break_tokenizers_stop(tmp_path, monkeypatch):
    splits = good()
    train, validation, test = splits.values()
    train[0]["question"] = "a\0b"
    train[1]["question"] = "long " * 160_000
    train[2]["solution"] = "\frac12"  # in JSON "\\frac" was meant
    train[3]["id"] = "train\x1b3"
    validation[0]["answer"] = "1\x7f"
    test[0]["source"] = "L\x92Hospital"
    test[1]["question"] = "tab\tand\nnewline are \u00a0 fine"
    control = '"texts hold no control characters (NUL, form feed: a JSON backslash is written twice)" does not hold: '
    assert set(breaches(tmp_path, splits, monkeypatch)) == {
        f"test: {control}1 rows, e.g. test-0",
        f"train: {control}3 rows, e.g. train-0, train-2, train?3",
        'train: "questions have at most 20000 characters" does not hold: 1 rows, e.g. train-1',
        'validation: "the verifier accepts the gold answer" does not hold: 1 rows, e.g. validation-0',
        f"validation: {control}1 rows, e.g. validation-0",
    }


def test_answers_that_stand_in_for_one_and_labels_nobody_reads_are_told(tmp_path):
    class Words:
        """A task in which "about seven or so" is no answer."""

        def canonical_response(self, answer: str) -> str:
            return answer

        def verify(self, responses: list[str], answers: list[str]) -> list[float | None]:
            return [None if " " in a else float(r == a) for r, a in zip(responses, answers, strict=True)]

    splits = good()
    for place, answer in enumerate(["N/A", "???", "unknown", "see solution above"]):
        splits["train"][place]["answer"] = answer
    splits["train"][5]["label"] = "about seven or so"
    splits["test"][5]["answer"] = "about seven or so"
    checks, _ = validate.validate(splits, Words(), 1.0, tmp_path / "docs")
    failed = {(check["split"], check["name"]): (check["severity"], check["examples"]) for check in checks if not check["success"]}
    assert failed == {
        ("train", 'answers do not stand in for one ("N/A", "???")'): ("warning", ["train-0", "train-1", "train-2"]),
        ("train", "the verifier can read the label"): ("warning", ["train-5"]),
        ("train", "the verifier accepts the gold answer"): ("critical", ["train-3"]),
        ("test", "the verifier accepts the gold answer"): ("critical", ["test-5"]),
    }


def test_rows_without_ids_are_named_by_their_place(tmp_path, monkeypatch):
    splits = good()
    del splits["train"][6]["id"]
    assert breaches(tmp_path, splits, monkeypatch) == ['train: "id is non-empty text" does not hold: 1 rows, e.g. row 7']
    for row in splits["test"]:
        del row["id"]
    assert breaches(tmp_path, splits, monkeypatch)[1] == 'test: "column id is present" does not hold: 8 rows, e.g. row 1, row 2, row 3'


def test_the_verifier_decides_whether_a_differently_spelt_label_is_noise(tmp_path):
    class Halves:
        """A task in which 1/2 and 0.5 are the same answer."""

        def canonical_response(self, answer: str) -> str:
            return f"so {answer}"

        def verify(self, responses: list[str], answers: list[str]) -> list[float | None]:
            return [
                float(r.removeprefix("so ").replace("1/2", "0.5") == a.replace("1/2", "0.5"))
                for r, a in zip(responses, answers, strict=True)
            ]

    splits = good()
    splits["train"][0] |= {"answer": "0.5", "label": "1/2"}
    splits["train"][1] |= {"answer": "0.5", "label": "2/1"}
    splits["train"][2] |= {"label": None}
    _, noise = validate.validate(splits, Halves(), 0.0, tmp_path / "docs")
    assert noise == 2 / 20


def test_missing_and_malformed_files_are_named(tmp_path, monkeypatch):
    splits = good()
    run(tmp_path, splits, monkeypatch)
    path = Path("data/prepared/test.jsonl")
    path.write_text('{"id": 1')
    with pytest.raises(UserError, match=r"data/prepared/test\.jsonl:1: not valid JSON"):
        validate.run(Params(), Record())
    path.unlink()
    with pytest.raises(UserError, match=r"data/prepared/test\.jsonl: not found"):
        validate.run(Params(), Record())
