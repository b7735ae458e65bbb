"""Multiple choice: reading and checking answers."""

import pytest

from pipeline.domains import load_task
from pipeline.params import Params
from vrpo.tasks.science.task import ScienceTask, option_lines, read_option


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("B", ("B", "")),
        ("(b)", ("B", "")),
        ("B. Copper wire", ("B", "copper wire")),
        ("C) 3", ("C", "3")),
        (r"\text{(D)}", ("D", "")),
        ("option A", ("A", "")),
        ("Copper", ("", "copper")),
        ("A cat", ("", "a cat")),
        ("$12$", ("", "12")),
        ("", ("", "")),
    ],
)
def test_options_as_people_state_them(said, expected):
    assert read_option(said) == expected


def test_letters_and_texts_are_accepted_and_nothing_else():
    task, gold = ScienceTask(), "B. Copper"
    said = ["B", "(B)", "copper", r"\text{B. copper}", "B) Copper.", "A", "gold", "A. Copper", "AB", ""]
    right = [1.0] * 5 + [0.0] * 5
    assert task.verify([rf"So it is \boxed{{{one}}}" for one in said], [gold] * len(said)) == right
    assert task.verify(["It is B.", "B"], [gold] * 2) == [0.0, 0.0]  # nothing boxed
    assert task.verify([task.canonical_response(gold)], [gold]) == [1.0]


def test_a_vote_is_a_letter_and_cannot_judge_texts():
    task = ScienceTask()
    assert task.verify([r"\boxed{B}", r"\boxed{C. x}", r"\boxed{copper}", r"\boxed{B}"], ["B", "B", "B", ""]) == [1.0, 0.0, None, None]
    assert task.extract(r"\boxed{b. copper}") == "B"
    assert task.extract(r"\boxed{Copper}") == "copper"
    assert task.extract("B") is None


def test_markup_does_not_count_and_the_options_own_text_comes_before_a_letter():
    right = {
        "B. copper wire": [
            "B - copper wire",
            "B, copper wire",
            "copper wire (B)",
            "**B**",
            "`B`",
            "[B]",
            "Answer: B",
            "The correct answer is B.",
            *(r"\rm B", r"\text{\textbf{B}}", r"\boldsymbol{(B)}", r"copper\ wire", r"\mathrm{B.~copper~wire}", "Ｂ"),
        ],
        "B. E. coli": ["E. coli", r"\textit{E. coli}"],
        "D. K": ["K", "D"],
        "C. A": ["C"],
        "A. 5 m/s": [r"5\,\text{m/s}", "5m/s"],
        "B. CO2": [r"\text{CO_{2}}", "CO₂", r"\ce{CO2}"],
        "B. Ca2+": [r"\text{Ca}^{2+}", "Ca²⁺"],
        "B. the Sun": ["The sun", "B, the Sun"],
        "A. cat": ["A cat"],
        "C. 200 billion": [r"\text{200 billion}"],
        "A. 3 x 10^8 m/s": [r"3 \times 10^8 \text{ m/s}", "3 × 10⁸ m/s"],
        "A. 1/2": [r"\frac12"],
        "A. 1,000": ["1000"],
        "A. x^2 + 1": ["$x^{2}+1$"],
        "A. sin(x)": [r"\sin(x)"],
        "A. the “best” one": ['the "best" one'],
        "A. 10^-4 eV": [r"10^{-4}\,\mathrm{eV}"],
    }
    wrong = {
        "B. copper wire": ["A - copper wire", "B, C", "A or B", "C copper wire", "K"],
        "B. E. coli": ["E", "E. x"],
        "C. A": ["A"],  # a question with an option C has one that is called A
        "A. dog": ["A cat"],
        "B. CO2": ["CO"],
        "A. 10^-4 eV": ["10^4 eV", "10^{-5} eV"],
    }
    check(right, wrong)


def test_capitals_decide_where_they_tell_options_apart():
    check(
        {"A. Bb Bb": ["Bb Bb"], "B. CO": ["CO"], "B. DNA": ["dna"], "B. No": ["no"], "B. Copper": ["copper", "COPPER"]},
        {"A. Bb Bb": ["BB Bb", "bb bb"], "C. TT": ["Tt"], "C. RrYy": ["RRYY", "rryy"], "B. CO": ["Co"], "D. K": ["k"]},
    )


def check(right: dict[str, list[str]], wrong: dict[str, list[str]]) -> None:
    task = ScienceTask()
    for table, score in ((right, 1.0), (wrong, 0.0)):
        for gold, said in table.items():
            assert task.verify([rf"\boxed{{{one}}}" for one in said], [gold] * len(said)) == [score] * len(said), gold


def test_votes_for_one_option_are_alike_and_letters_without_option_are_texts():
    texts = ["gold", "copper wire", "E. coli", "K"]
    task, (_, choices) = ScienceTask(), option_lines(texts)
    said = ["B", "copper wire", "(b) copper wire", "B copper wire", "E. coli", "K", "silver"]
    assert [task.extract(rf"\boxed{{{one}}}", choices) for one in said] == ["B", "B", "B", "B", "C", "D", "silver"]


def test_up_to_26_options():
    lines, choices = option_lines([f"o{n}" for n in range(10)])
    assert lines[9] == "J. o9"
    assert choices[9] == {"label": "J", "text": "o9"}
    for count in (1, 27):
        with pytest.raises(ValueError, match=f"{count} options"):
            option_lines(["x"] * count)


def test_real_text_in_domain_science_is_multiple_choice():
    assert isinstance(load_task(Params(domain="science", prepare={"dataset": "mine.jsonl"})), ScienceTask)
