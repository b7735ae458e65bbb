"""Benchmarks: declarations, metrics, and the verifiers on real reference answers."""

import itertools
import random
from functools import cache
from pathlib import Path

import pytest

from vrpo.benchmarks.measures import check_readable, scores
from vrpo.benchmarks.questions import BENCHMARKS, MMLU_SCIENCE, choose, load_benchmark
from vrpo.errors import UserError
from vrpo.metrics.statistics import pass_at
from vrpo.rollout.samples import PolicySamples
from vrpo.tasks.loader import load_domain
from vrpo.tasks.math.task import canonical

FILES = Path(__file__).resolve().parents[3] / "shared" / "data"
LOCAL = ("gsm8k", "math500", "aime24", "arc_easy")


@cache
def questions(name: str) -> list[dict]:
    if not FILES.is_dir():
        pytest.skip("../shared/data is not there")
    return load_benchmark(name, FILES)


@pytest.fixture(scope="module")
def tasks():
    made = {domain: load_domain(domain).on_rows() for domain in ("math", "science")}
    yield made
    made["math"].close()


@pytest.mark.parametrize("name", LOCAL)
def test_every_reference_answer_is_accepted_boxed(tasks, name):
    task, answers = tasks[BENCHMARKS[name].domain], [row["answer"] for row in questions(name)]
    assert task.verify([task.canonical_response(answer) for answer in answers], answers) == [1.0] * len(answers)


@pytest.mark.parametrize("name", LOCAL)
def test_answers_of_other_questions_are_rejected(tasks, name):
    """375 pairs each, 1,500 in all. Different spellings of one value are no mismatch; math-verify need not be asked to see that."""
    task, rows, rng = tasks[BENCHMARKS[name].domain], questions(name), random.Random(0)
    pairs = []
    while len(pairs) < 375:
        one, other = (row["answer"] for row in rng.sample(rows, 2))
        if one[0] != other[0] if name == "arc_easy" else canonical(one) != canonical(other):
            pairs.append((one, other))
    found = task.verify([task.canonical_response(other) for _, other in pairs], [one for one, _ in pairs])
    assert 1.0 not in found
    assert found.count(0.0) >= 0.99 * len(pairs)  # on a busy machine a comparison may run out of time


def test_unknown_names_and_missing_files_are_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"gsm9k: no such benchmark; use one of gsm8k, math500"):
        load_benchmark("gsm9k")
    (tmp_path / "amc23.jsonl").write_text('{"question": "1 + 1?", "answer": 2}\n{"question": "2 + 2?"}\n')
    with pytest.raises(UserError, match=r"amc23\.jsonl:2: no `answer`"):
        load_benchmark("amc23", tmp_path)


def test_without_a_file_every_subset_comes_from_the_hub(tmp_path, monkeypatch):
    asked = []

    def load(dataset, subset, split):
        asked.append((dataset, subset, split))
        return [{"question": f"{subset}?", "choices": ["1", "2", "3", "4"], "answer": 2}]

    monkeypatch.setattr("vrpo.problems._load_with_datasets", load)
    rows = load_benchmark("mmlu_science", tmp_path)
    assert asked == [("cais/mmlu", subset, "test") for subset in MMLU_SCIENCE]
    assert all(row["answer"].endswith(". 3") for row in rows)  # the third, though a text is "2"


def test_chosen_problems_keep_their_order_and_depend_on_the_seed():
    rows = [{"id": number} for number in range(50)]
    first = choose(rows, 10, 0)
    assert first == choose(rows, 10, 0) != choose(rows, 10, 1)
    assert [row["id"] for row in first] == sorted(row["id"] for row in first)
    assert choose(rows, None, 0) == choose(rows, 80, 0) == rows


@pytest.mark.parametrize(("k", "correct", "samples"), [(1, 2, 5), (2, 2, 5), (3, 1, 5), (5, 0, 5), (4, 3, 5)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(k, correct, samples):
    right = [True] * correct + [False] * (samples - correct)
    subsets = list(itertools.combinations(right, k))
    assert pass_at(k, correct, samples) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def drawn(task, answers: list[str], said: list[list[str | None]]) -> PolicySamples:
    texts = [["no idea" if one is None else task.canonical_response(one) for one in group] for group in said]
    rows = [{"answer": answer} for answer in answers]
    flat = [text for group in texts for text in group]
    return PolicySamples(rows, texts, [], task.verify(flat, [answer for answer in answers for _ in range(len(said[0]))]))


def test_scores_of_known_responses(tasks):
    said = [["7", "7", "8", "9"], ["1", "2", "2", None], [None] * 4, ["5", "5", "5", "5"]]
    found = scores(tasks["math"], drawn(tasks["math"], ["7", "1", "3", "}{"], said))
    assert found["avg@4"]["mean"] == pytest.approx((0.5 + 0.25 + 0) / 3)  # the last reference is unreadable: unknown, not wrong
    assert found["maj@4"]["mean"] == pytest.approx(1 / 3)
    assert found["pass@1"]["mean"] == pytest.approx(found["avg@4"]["mean"])
    assert found["pass@2"]["mean"] == pytest.approx((5 / 6 + 1 / 2 + 0) / 3)
    assert found["pass@4"]["mean"] == pytest.approx(2 / 3)
    assert found["avg@4"]["n"] == 3
    assert (found["unscored_responses"], found["unscored_problems"]) == (4, 1)
    assert found["format"] == pytest.approx(11 / 16)


def test_a_tokenizer_that_loses_most_of_a_prompt_is_told():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from vrpo.tasks.math.chain import new_tokenizer

    words = Tokenizer(models.WordLevel({"<unk>": 0, "<eos>": 1, "Problem": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    unknown = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", unk_token="<unk>", pad_token="<eos>")
    for name, tokenizer in (("padding", new_tokenizer()), ("unknown", unknown)):
        with pytest.raises(UserError, match=rf"{name}: its tokenizer .* loses \d\d% of the prompts of amc23"):
            check_readable(tokenizer, name, {"amc23": [{"question": "What is one plus one?", "answer": "2"}]})
