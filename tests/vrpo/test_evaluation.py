"""Samples of a policy: the same whatever the batches; accuracies with intervals that admit what they do not know."""

import pytest

from vrpo.config import GenerationConfig
from vrpo.data.text import decode, encode
from vrpo.errors import UserError
from vrpo.rollout import samples as evaluation
from vrpo.rollout.conversation import converse
from vrpo.rollout.sampler import new_sampler
from vrpo.rollout.samples import accuracy, sample_texts
from vrpo.seeding import derive_seed


@pytest.mark.parametrize("dialogue", [False, True])
def test_samples_do_not_depend_on_the_generation_batch_size(policy, tokenizer, problems, monkeypatch, dialogue: bool) -> None:
    monkeypatch.setattr(evaluation, "SEEDED", 8)
    monkeypatch.setattr(tokenizer, "chat_template", "{% for m in messages %}{{ m['content'] }}.{% endfor %}")

    def reply(place: int, turns: list[str]) -> str | None:
        return f"{place % 10}+" if len(turns) < 2 else None

    prompts = [row["prompt"] for row in problems[:11]]

    def texts(batch_size: int) -> list[list[str]]:
        generation = GenerationConfig(max_new_tokens=5, max_turns=2, batch_size=batch_size)
        sampler = new_sampler(policy, tokenizer, generation)
        found, rollouts = sample_texts(sampler, prompts, 2, seed=("test",), reply=reply if dialogue else None)
        assert [text for group in found for text in group] == [text for rollout in rollouts for text in decode(tokenizer, rollout)]
        assert max(map(len, rollouts)) <= min(batch_size, 8)
        return found

    whole = texts(8)
    assert all(texts(batch_size) == whole for batch_size in (1, 3, 5, 20))
    assert len({text for group in whole for text in group}) > 15 and [len(group) for group in whole] == [2] * 11


def test_a_batch_of_512_draws_what_it_always_drew(policy, tokenizer, problems) -> None:
    prompts, generation = [row["prompt"] for row in problems] * 14, GenerationConfig(max_new_tokens=3)  # 560 rows, two chunks
    sampler = new_sampler(policy, tokenizer, generation)
    found, _ = sample_texts(sampler, prompts, 1, seed=("test", 1))
    tail = converse(sampler, encode(tokenizer, prompts[512:]), seed=derive_seed("test", 1, 512))
    assert [text for (text,) in found[512:]] == decode(tokenizer, tail)


def test_all_right_is_not_certain() -> None:
    found = accuracy([[1.0, 1.0]] * 30)
    assert found.mean == 1.0 and found.ci95 == pytest.approx((0.025 ** (1 / 30), 1.0))
    assert accuracy([[0.0]] * 30).ci95 == pytest.approx((0.0, 1 - 0.025 ** (1 / 30)))
    low, high = accuracy([[1.0], [0.0], [None], [1.0], [1.0]]).ci95
    assert low == pytest.approx(max(0.0, 0.75 - 3.182446 * 0.25), abs=1e-5) and high == 1.0


def test_nothing_to_score_is_said_in_one_line() -> None:
    with pytest.raises(UserError, match="no response could be scored"):
        accuracy([[None], [None]])
