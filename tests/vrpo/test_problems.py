"""Columns of many sets and mirrors, one form."""

import pytest

from vrpo.errors import UserError
from vrpo.problems import normalise, read_problems
from vrpo.tasks.math import DOMAIN as MATH
from vrpo.tasks.science import DOMAIN

ARC = {"question": "Which?", "choices": {"text": ["rock", "gas"], "label": ["1", "2"]}, "answerKey": "2"}
SCIENCE = {
    "ARC, two lists": (ARC, "gas"),
    "ARC, pairs, options in the question": (
        {"question": "Which?\nA. rock\nB. gas", "choices": [{"label": "A", "text": "rock"}, {"label": "B", "text": "gas"}], "answer": "B"},
        "gas",
    ),
    "SciQ": (
        {
            "question": "Which?",
            "correct_answer": "gas",
            "distractor1": "rock",
            "distractor2": "dust",
            "distractor3": "ice",
            "support": "So.",
        },
        "gas",
    ),
    "MMLU, places": ({"question": "Which?", "choices": ["w", "x", "y", "z"], "answer": 2}, "y"),
    "MMLU, texts that look like places": ({"question": "How many?", "choices": ["2", "3", "0", "1"], "answer": 0}, "2"),
    "MMLU mirror, letter columns": ({"question": "Which?", "A": "rock", "B": "gas", "C": "ice", "answer": "C"}, "ice"),
    "GPQA": (
        {"Question": "Which?", "Correct Answer": "gas\n", "Incorrect Answer 1": "x", "Incorrect Answer 2": "y", "Incorrect Answer 3": "z"},
        "gas",
    ),
    "SuperGPQA": ({"question": "Which?", "options": [f"o{n}" for n in range(10)], "answer": "o7", "answer_letter": "H"}, "o7"),
    "letters to texts": ({"question": "Which?", "options": {"A": "rock", "B": "gas"}, "answer": "B"}, "gas"),
    "texts": ({"question": "Which?", "choices": ["rock", "gas"], "answer": "gas"}, "gas"),
}


@pytest.mark.parametrize("name", SCIENCE)
def test_science_rows(name):
    raw, right = SCIENCE[name]
    orders = set()
    for seed in range(12):
        row = normalise(raw, "here:1", "set", DOMAIN, seed)
        stem, *lines = row["question"].split("\n")
        assert stem in ("Which?", "How many?")
        assert row["answer"] in lines
        assert row["answer"][3:] == right
        assert lines == [f"{choice['label']}. {choice['text']}" for choice in row["choices"]]
        assert [line[0] for line in lines] == [chr(65 + place) for place in range(len(lines))]
        orders.add(tuple(line[3:] for line in lines))
        assert row == normalise(raw, "here:1", "set", DOMAIN, seed)
    assert len(orders) > 1
    assert len({tuple(sorted(order)) for order in orders}) == 1


def test_options_with_double_spaces_are_found():
    """In the question and as the right one; else they would stand there twice."""
    raw = {"question": "Which?\nA. hot  gas\nB.  cold\trock", "choices": ["hot  gas", "cold\trock"]}
    for right, text in (("cold  rock", "cold rock"), ("B. cold rock", "cold rock"), ("(a)", "hot gas"), ("Hot gas", "hot gas")):
        row = normalise(raw | {"answer": right}, "here:1", "set", DOMAIN)
        assert sorted(line[3:] for line in row["question"].split("\n")[1:]) == ["cold rock", "hot gas"]
        assert row["answer"][3:] == text


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"problem": "1+1?", "Answer": 2.0}, {"question": "1+1?", "answer": "2"}),
        ({"Problem": "x?", "final_answer": ["2", "3"], "solution": ["a", "b"]}, {"answer": "2, 3", "solution": "a\nb"}),
        ({"question": "y?", "expected_answer": "7", "id": 0}, {"answer": "7", "id": "0"}),
        ({"question": "z?", "answer": "So <<1*1000=1000>>1000.\n#### 1,000"}, {"answer": "1000", "solution": "So 1000."}),
    ],
)
def test_math_rows(raw, expected):
    row = normalise(raw, "here:1", "set", MATH)
    assert row | expected == row


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"question": "Which?", "answer": "B"}, "here:1: no options .columns: question, answer"),
        (ARC | {"answerKey": "5"}, "here:1: '5' is none of the options .1, 2"),
        ({"question": "Which?", "choices": ["a"], "answer": "a"}, "here:1: 1 options"),
        ({"question": "Which?", "choices": ["a", None], "answer": "a"}, "here:1: an option must be text or a number, found None"),
        ({"question": "Which?", "choices": ["a", "b"]}, "here:1: no `answer_letter` or .*`answer`"),
        ({"choices": ["a", "b"], "answer": "a"}, "here:1: no `question`"),
    ],
)
def test_malformed_science_rows_are_named(raw, message):
    with pytest.raises(UserError, match=message):
        normalise(raw, "here:1", "set", DOMAIN)


def test_noisy_labels_follow_the_shuffle():
    row = normalise(ARC | {"label": "1"}, "here:1", "set", DOMAIN, seed=3)
    assert row["label"][3:] == "rock"
    assert row["label"] in row["question"].split("\n")


def test_a_gated_set_says_what_to_do(monkeypatch):
    import datasets

    def gated(*_, **__):
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'Idavidrein/gpqa' is a gated dataset on the Hub.")

    monkeypatch.setattr("vrpo.models.loading.hub_reachable", lambda *_: True)
    monkeypatch.setattr(datasets, "load_dataset", gated)
    with pytest.raises(UserError, match=r"Idavidrein/gpqa: gated; accept its terms at https://.*then `hf auth login`"):
        read_problems("Idavidrein/gpqa", "gpqa_diamond", "train", DOMAIN, 0)
