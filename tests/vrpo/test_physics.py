"""Procedural science."""

import random
from collections import Counter

import pytest

from pipeline.domains import load_task
from pipeline.params import Params
from vrpo.tasks.science import physics
from vrpo.tasks.science.physics import LAWS, MISTAKES, UNITS, PhysicsTask, derive, generate_problems, new_tokenizer, read_question

QUESTION = "mass 3000 g , acceleration 4 m/s2 , force in N ? 7 (A) 12 (B) 120 (C) 13 (D)"


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return generate_problems(3000, 0, set())


def test_the_example_of_the_docstring():
    assert derive(QUESTION) == "mass 3 kg * acceleration 4 m/s2 = 12"
    quotient = "time 3000 ms , distance 24 m , speed in m/s ? 0.8 (A) 8 (B) 21 (C) 7 (D)"
    assert derive(quotient) == "distance 24 m / time 3 s = 8"
    with pytest.raises(ValueError, match="not a question"):
        read_question("3+5-2")


def test_answers_follow_from_the_laws(rows):
    """Recomputed from the question alone."""
    for row in rows:
        given, target, options = read_question(row["question"])
        si = {name: value / (UNITS[name][2] if unit != UNITS[name][0] else 1) for name, (value, unit) in given.items()}
        product, first, second = next(law for law in LAWS if set(law) == {*si, target})
        value = si[first] * si[second] if target == product else si[product] / si[first if target == second else second]
        assert row["answer"] == f"{value:g} ({'ABCD'[options.index(f'{value:g}')]})"
        assert len(set(options)) == 4
        assert sorted(row["mistakes"].values()) == sorted(MISTAKES)
        assert row["answer"][-2] not in row["mistakes"]
        assert row["length"] == 1 + sum(unit != UNITS[name][0] for name, (_, unit) in given.items())


def test_problems_are_different_and_options_in_every_place(rows):
    assert len({row["question"] for row in rows}) == len(rows)
    assert min(Counter(row["answer"][-2] for row in rows).values()) > 600
    assert {row["law"] for row in rows} == {f"{product} = {first} * {second}" for product, first, second in LAWS}
    again = generate_problems(50, 0, {rows[0]["question"]})
    assert rows[0]["question"] not in {row["question"] for row in again}


def test_a_clean_writer_is_always_right_and_a_careless_one_errs_by_the_named_mistakes(rows):
    task, rng = PhysicsTask(), random.Random(0)
    answers = [row["answer"] for row in rows]
    assert task.verify([task.demonstration(row) for row in rows], answers) == [1.0] * len(rows)
    assert task.verify([task.write(row, rng, 0.0) for row in rows], answers) == [1.0] * len(rows)
    texts = [task.write(row, rng, 0.35) for row in rows]
    right = task.verify(texts, answers)
    by_steps = [[score for score, row in zip(right, rows, strict=True) if row["length"] == steps] for steps in (1, 2, 3)]
    shares = [sum(scores) / len(scores) for scores in by_steps]
    assert shares == pytest.approx([0.65, 0.65**2, 0.65**3], abs=0.05)
    offered = [{choice["text"]: row["mistakes"].get(choice["label"]) for choice in row["choices"]} for row in rows]
    made = Counter(options.get(task.extract(text), "none") for text, options in zip(texts, offered, strict=True))
    assert all(made[mistake] > 100 for mistake in MISTAKES)


def test_texts_and_letters_are_accepted():
    task = PhysicsTask()
    said = ["2 s = 12", "= 12", "(B)", "so (B)", "= 1 = 12", "12", "= 12 (A)", "(A)", "= 13", "= (B) 12", ""]
    assert task.verify(said, ["12 (B)"] * len(said)) == [1.0] * 5 + [0.0] * 6
    assert task.extract("5 m = 12") == task.extract(task.canonical_response("12 (B)")) == "12"  # votes and references are spelled alike
    assert task.verify(["= 12", "= 13", "= 0.4"], ["12", "12", "0.4"]) == [1.0, 0.0, 1.0]
    assert task.verify([task.canonical_response("(C)"), "= 12"], ["(C)", "twelve"]) == [1.0, None]


def test_every_text_is_made_of_the_tokenizers_symbols(rows):
    tokenizer, rng = new_tokenizer(), random.Random(1)
    task = PhysicsTask()
    texts = [task.prompt(row["question"]) for row in rows] + [derive(row["question"], rng, 0.5) for row in rows]
    for text, ids in zip(texts, tokenizer(texts, add_special_tokens=False)["input_ids"], strict=True):
        assert tokenizer.pad_token_id not in ids
        assert tokenizer.decode(ids) == text
    assert len(tokenizer) < 256


def test_domain_science_means_physics(monkeypatch):
    task = load_task(Params(domain="science"))
    assert isinstance(task, PhysicsTask)
    monkeypatch.setattr(physics, "_ATTEMPTS", 0)  # as if there were no more
    with pytest.raises(ValueError, match="10 different problems cannot be drawn"):
        task.generate(10, 0, set())
