"""Preparing problems: generated, from files, through the `datasets` library."""

import json
from pathlib import Path

import pytest

from pipeline.files import read_jsonl
from pipeline.params import Params
from pipeline.stages import base, prepare
from vrpo.errors import UserError

SPLITS = ("train", "validation", "test")
GSM8K_STYLE = [
    {"question": f"What is {i} plus {i}?", "answer": f"Twice {i} is <<{i}*2={2 * i}>>{2 * i}.\n#### {2 * i:,}"} for i in range(600)
]


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def params(**values) -> Params:
    sizes = {"train_size": 30, "validation_size": 10, "test_size": 10}
    return Params(domain=values.pop("domain", "math"), prepare={**sizes, **values})


def run(**values) -> tuple[dict, dict[str, list[dict]]]:
    metrics = prepare.run(params(**values), record=None)
    return metrics, {split: read_jsonl(Path(f"data/prepared/{split}.jsonl")) for split in SPLITS}


def write_lines(path: Path, lines: list) -> None:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), encoding="utf-8")


def questions(rows: list[dict]) -> set[str]:
    return {" ".join(row["question"].split()) for row in rows}


def problems(count: int, start: int = 0) -> list[dict]:
    return [{"question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(start, start + count)]


def test_chain_has_exact_sizes_distinct_questions_and_unique_ids(project):
    metrics, splits = run(dataset="procedural", train_size=300, validation_size=40, test_size=50)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 300, "validation": 40, "test": 50}
    everything = [row for rows in splits.values() for row in rows]
    assert len({row["id"] for row in everything}) == len(questions(everything)) == 390
    assert set(everything[0]) == {"id", "question", "answer", "length", "solution", "source", "licence"}
    assert {row["length"] for row in splits["train"]} == set(range(1, 9))
    assert metrics["rows_train"] == 300


def test_chain_without_enough_problems_names_the_size(project):
    with pytest.raises(UserError, match=r"prepare\.train_size = 5000"):
        run(dataset="procedural", max_length=1, train_size=5000)


def test_same_parameters_same_bytes_and_another_seed_other_rows(project):
    def files(**values) -> list[bytes]:
        run(**values)
        return [Path(f"data/prepared/{split}.jsonl").read_bytes() for split in SPLITS]

    write_lines(project / "mine.jsonl", problems(80))
    for values in ({"dataset": "mine.jsonl"}, {"dataset": "procedural"}):
        first = files(**values)
        assert files(**values) == first
        assert all(other != one for other, one in zip(files(**values, seed=1), first, strict=True))


def test_columns_are_normalised_and_extra_ones_kept(project):
    rows = [
        {"problem": " How many? ", "gold": 7, "source": "me", "licence": "MIT", "id": 0},
        {"question": "And then?", "answer": 8.0, "solution": "Eight."},
        {"question": "A lot?", "answer": "So <<2*500=1000>>1000 it is.\n#### 1,000"},
    ]
    write_lines(project / "mine.jsonl", rows)
    _, splits = run(dataset="mine.jsonl", train_size=1, validation_size=1, test_size=1)
    by_question = {row["question"]: row for rows in splits.values() for row in rows}
    assert by_question["How many?"] == {"id": "0", "question": "How many?", "answer": "7", "source": "me", "licence": "MIT"}
    assert by_question["And then?"]["answer"] == "8"
    assert by_question["And then?"]["licence"] == "unknown"
    assert by_question["A lot?"]["answer"] == "1000"
    assert by_question["A lot?"]["solution"] == "So 1000 it is."
    assert by_question["A lot?"]["source"] == "mine"


GERMAN = [{"Nr": i, "Aufgabe": f"Was ist {i} + 1?", "Lösung": str(i + 1), "question": "?", "answer": "no"} for i in range(50)]
COLUMNS = {"id": "Nr", "question": "Aufgabe", "answer": "Lösung"}


@pytest.mark.parametrize("source", ["file", "folder"])
def test_columns_of_other_names_are_read_by_their_names(project, source):
    if source == "folder":  # the way of hub sets, without the hub
        (project / "set").mkdir()
    name = "mine.jsonl" if source == "file" else "set"
    write_lines(project / ("mine.jsonl" if source == "file" else "set/train.jsonl"), GERMAN)
    _, splits = run(dataset=name, columns=COLUMNS)
    found = {row["id"]: (row["question"], row["answer"]) for rows in splits.values() for row in rows}
    assert found == {str(row["Nr"]): (row["Aufgabe"], row["Lösung"]) for row in GERMAN}


def test_a_renamed_column_is_read_by_no_other_name(project):
    rows = [{"query": f"Why {i}?", "answer": "a long way", "result": str(i), "noisy": "0"} for i in range(40)]
    write_lines(project / "mine.jsonl", rows)
    write_lines(project / "test.jsonl", [{"query": "Why, then?", "answer": "a way", "result": "7"}])  # test problems have no noisy labels
    columns = {"solution": "answer", "gold": "Result", "label": "noisy"}
    _, splits = run(dataset="mine.jsonl", test_dataset="test.jsonl", columns=columns, label_noise=0.5)
    row = splits["train"][0]
    assert (row["solution"], row["label"]) == ("a long way", "0") and row["answer"] in row["question"] and "label" not in splits["test"][0]
    assert splits["test"][0]["answer"] == "7"


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        (GERMAN, {"question": "Aufgaben"}, r"mine.jsonl:1: no column 'Aufgaben', which prepare.columns reads as question; there are: "),
        (GERMAN, {"question": "Aufgaben"}, "there are: Nr, Aufgabe, Lösung, question, answer; correct prepare.columns or the row"),
        (GERMAN, COLUMNS | {"solution": "Weg"}, "mine.jsonl:1: no column 'Weg', which prepare.columns reads as solution"),
        ([*GERMAN, {"Nr": 99, "Aufgabe": "?"}], COLUMNS, "mine.jsonl:51: no column 'Lösung', .* there are: Nr, Aufgabe;"),
    ],
)
def test_a_column_that_is_not_there_is_named_with_those_that_are(project, rows, columns, message):
    write_lines(project / "mine.jsonl", rows)
    with pytest.raises(UserError, match=message):
        run(dataset="mine.jsonl", columns=columns)


def test_rows_may_lack_a_solution(project):
    write_lines(project / "mine.jsonl", [row | ({"Weg": "So."} if row["Nr"] else {}) for row in GERMAN])
    _, splits = run(dataset="mine.jsonl", columns=COLUMNS | {"solution": "Weg"})
    assert {row["id"] for rows in splits.values() for row in rows if "solution" not in row} == {"0"}


def test_columns_are_of_use_to_data_alone_and_unset_in_what_names_runs(project):
    with pytest.raises(UserError, match="prepare.columns: has no use with prepare.dataset = procedural"):
        run(dataset="procedural", columns=COLUMNS)
    assert "columns" not in Params().model_dump()["prepare"]


def test_repeated_questions_are_dropped_and_conflicts_counted(project):
    write_lines(
        project / "mine.jsonl",
        [*problems(40), {"question": "What  is 3 + 1?\n", "answer": "4"}, {"question": "What is 5 + 1?", "answer": "7"}],
    )
    metrics, splits = run(dataset="mine.jsonl", train_size=100)
    assert metrics["duplicates_removed"] == 2
    assert metrics["conflicting_answers"] == 1
    assert sum(map(len, splits.values())) == len(set().union(*map(questions, splits.values()))) <= 40


def test_one_question_with_two_answers_is_told_with_its_places(project, capsys):
    write_lines(project / "mine.jsonl", [*problems(40), {"question": "What is  5 + 1?", "answer": "7"}])
    write_lines(project / "test.jsonl", [{"question": "What is 8 + 1?", "answer": "10"}, {"question": "Why?", "answer": "1"}])
    metrics, _ = run(dataset="mine.jsonl", test_dataset="test.jsonl")
    assert metrics["conflicting_answers"] == 2
    assert (
        "warning: 2 repeated questions have another answer, the first one counts: "
        "mine.jsonl:6 '6', mine.jsonl:41 '7'; test.jsonl:1 '10', mine.jsonl:9 '9'\n"
    ) in capsys.readouterr().out


def test_options_in_another_order_are_the_same_question(project, capsys):
    def ask(number: int, choices: list[str], answer: str) -> dict:
        return {"question": f"Which {number}?", "choices": choices, "answer": answer}

    rows = [ask(number, ["rock", "gas"], "gas") for number in range(40)]
    write_lines(
        project / "mine.jsonl", [*rows, ask(3, ["gas", "rock"], "gas"), ask(4, ["gas", "rock"], "rock"), ask(5, ["gas", "ice"], "gas")]
    )
    metrics, splits = run(dataset="mine.jsonl", domain="science", train_size=21)
    assert (metrics["duplicates_removed"], metrics["conflicting_answers"]) == (2, 1)
    assert sum(map(len, splits.values())) == 41
    assert "mine.jsonl:5 'gas', mine.jsonl:42 'rock'" in capsys.readouterr().out


def test_byte_order_marks_and_other_ends_of_lines_are_read(project):
    text = "\r\n".join(json.dumps(row) for row in problems(40))
    half = len(text) // 2
    (project / "marked.jsonl").write_bytes(
        b"\xef\xbb\xbf" + text.encode() + b"\r\n\r\n\xef\xbb\xbf" + json.dumps(problems(1, 40)[0]).encode()
    )
    metrics, splits = run(dataset="marked.jsonl", train_size=21)
    assert metrics["rows_train"] == 21
    assert questions([row for rows in splits.values() for row in rows]) == questions(problems(41))
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        (project / "wide.jsonl").write_bytes(text[: half - half % 4].encode(encoding))
        with pytest.raises(UserError, match=r"wide\.jsonl: UTF-16 or UTF-32, not UTF-8; convert it: iconv"):
            run(dataset="wide.jsonl")
    (project / "latin.jsonl").write_bytes('{"question": "caf\xe9?", "answer": "1"}'.encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.jsonl: not a UTF-8 text file"):
        run(dataset="latin.jsonl")


def test_a_set_or_model_that_git_does_not_know_is_no_hub_id_in_an_experiment(project, monkeypatch):
    (project / "mine/set").mkdir(parents=True)
    (project / "copy").mkdir()
    monkeypatch.setenv("DVC_ROOT", str(project))
    monkeypatch.chdir(project / "copy")
    with pytest.raises(UserError, match="`git add mine/set` there"):
        run(dataset="mine/set")
    with pytest.raises(UserError, match="base.source = mine/set: .*`git add mine/set` there"):
        base.run(Params(base={"source": "mine/set"}), record=None)


def test_test_wins_over_train_whatever_the_spacing(project):
    write_lines(project / "train.jsonl", problems(50))
    write_lines(project / "test.jsonl", [{"question": f" What is  {i} + 1? ", "answer": str(i + 1)} for i in range(40, 60)])
    metrics, splits = run(dataset="train.jsonl", test_dataset="test.jsonl", train_size=100, test_size=5)
    assert metrics["test_overlap_removed"] == 10  # also those test rows that test_size leaves out
    assert len(splits["test"]) == 5
    in_test_file = questions(read_jsonl(project / "test.jsonl"))
    assert not in_test_file & (questions(splits["train"]) | questions(splits["validation"]))
    assert not questions(splits["train"]) & questions(splits["validation"])


def test_too_few_rows_are_shared_out_and_said(project, capsys):
    write_lines(project / "mine.jsonl", problems(25))
    metrics, _ = run(dataset="mine.jsonl")
    assert [metrics[f"rows_{split}"] for split in SPLITS] == [15, 5, 5]
    assert "fewer than prepare.train_size = 30" in capsys.readouterr().out


def test_labels_stay_in_train_only(project):
    write_lines(project / "mine.jsonl", [{**row, "label": row["answer"]} for row in problems(60)])
    _, splits = run(dataset="mine.jsonl", label_noise=0.1)
    assert all("label" in row for row in splits["train"])
    assert not any("label" in row for split in ("validation", "test") for row in splits[split])


def test_declared_noise_without_labels_is_refused_and_nothing_written(project):
    write_lines(project / "mine.jsonl", problems(60))
    with pytest.raises(UserError, match=r"prepare.label_noise = 0.1.*30 of 30 training rows have no `label`"):
        run(dataset="mine.jsonl", label_noise=0.1)
    assert not Path("data/prepared").exists()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{broken", r"mine\.jsonl:4: not valid JSON"),
        ({"question": "x?"}, r"mine\.jsonl:4: no `answer` or `gold` .*\(columns: question\)"),
        ({"answer": "1"}, r"mine\.jsonl:4: no `question` or `problem`"),
        ({"question": "  ", "answer": "1"}, r"mine\.jsonl:4: `question` is empty"),
        ({"question": "x?", "answer": ["1", 2]}, r"mine\.jsonl:4: `answer` must be text or a number"),
        ({"question": "x?", "answer": float("nan")}, r"mine\.jsonl:4: `answer` must be text or a number"),
        ({"question": "x?", "answer": True}, r"mine\.jsonl:4: `answer` must be text or a number, found True"),
        ({}, r"mine\.jsonl:4: no `question`"),
        ("null", r"mine\.jsonl:4: expected a JSON object, found NoneType"),
        ('{"question": "x?", "answer": "1", "answer": "2"}', r"mine\.jsonl:4: not valid JSON \(the key 'answer' comes twice\)"),
        ({"question": "\u200b\ufeff", "answer": "1"}, r"mine\.jsonl:4: `question` is empty"),
        ({"question": "x \ud800?", "answer": "1"}, r"mine\.jsonl:4: `question` holds half a character"),
        ({"question": "x?", "answer": "because ####"}, r"mine\.jsonl:4: no answer after ####"),
    ],
)
def test_a_malformed_row_is_named_by_file_and_line(project, bad, message):
    write_lines(project / "mine.jsonl", [*problems(2), "", bad, *problems(40, start=10)])
    with pytest.raises(UserError, match=message):
        run(dataset="mine.jsonl")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.jsonl", "missing.jsonl: not found"),
        ("empty.jsonl", "empty.jsonl: holds no rows"),
        ("table.csv", "table.csv: not a format"),
        ("../nowhere/at/all", "no such file or folder"),
        ("two.jsonl", "2 usable rows cannot be split"),
        ("nobody/nothing-here", "out of reach with no cached copy"),
    ],
)
def test_unusable_sources_are_one_clear_error(project, monkeypatch, name, message):
    import datasets

    monkeypatch.setattr("vrpo.models.loading.hub_reachable", lambda *_: False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", datasets.config.HF_HUB_OFFLINE)  # restored afterwards
    (project / "empty.jsonl").write_text("")
    write_lines(project / "two.jsonl", problems(2))
    with pytest.raises(UserError, match=message):
        run(dataset=name)


@pytest.mark.parametrize("form", ["parquet", "json"])
def test_folders_go_through_the_code_for_hub_ids(project, monkeypatch, form):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", project / "cache")
    (project / "copy").mkdir()
    table = datasets.Dataset.from_list(GSM8K_STYLE)
    write = {"parquet": table.to_parquet, "json": table.to_json}[form]
    write(str(project / "copy" / f"train-00000-of-00001.{form}"))
    metrics, splits = run(dataset="copy")
    assert [metrics[f"rows_{split}"] for split in SPLITS] == [30, 10, 10]
    for row in splits["train"]:
        assert row["answer"] == str(2 * int(row["question"].split()[2]))  # "1,198" became 1198, the reasoning is gone
        assert "<<" not in row["solution"]
    with pytest.raises(UserError, match="split 'dev'"):
        run(dataset="copy", split="dev")


def test_real_gsm8k_files(project):
    data = Path(__file__).resolve().parents[3] / "shared" / "data"
    if not (data / "gsm8k_test.jsonl").is_file():
        pytest.skip("../shared/data/gsm8k_test.jsonl is not there")
    metrics, splits = run(dataset=str(data / "gsm8k_train_2000.jsonl"), test_dataset=str(data / "gsm8k_test.jsonl"), test_size=50)
    assert [metrics[f"rows_{split}"] for split in SPLITS] == [30, 10, 50]
    assert all(row["licence"] == "MIT" and row["solution"] for rows in splits.values() for row in rows)
    assert all(row["id"].startswith("gsm8k-test") for row in splits["test"])
