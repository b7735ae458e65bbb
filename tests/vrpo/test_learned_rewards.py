"""The implicit reward is the log-ratio by hand; a blur brings a reward down to the wanted accuracy."""

import copy

import pytest
import torch

from vrpo.errors import UserError
from vrpo.models.supervised import fit_implicit_reward
from vrpo.rewards.implicit import ImplicitReward
from vrpo.rewards.model import BlurredReward, find_blur, pairwise_accuracy

PROMPTS, RESPONSES = ["3+5.-2.......:", "1*1..........:", "3+5.-2.......:"], ["+58-26", "*11", "+58-25"]


def test_scores_are_the_log_ratio_by_hand(policy, tokenizer) -> None:
    other = copy.deepcopy(policy)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    scores = ImplicitReward(other, policy, tokenizer, beta=0.3, batch_size=2)(PROMPTS, RESPONSES)
    for prompt, response, score in zip(PROMPTS, RESPONSES, scores, strict=True):
        ids = torch.tensor([tokenizer(prompt + response + "<eos>", add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            tables = [torch.log_softmax(model(input_ids=ids).logits[0, :-1], -1) for model in (other, policy)]
        own, reference = (table.gather(1, ids[0, 1:, None])[len(prompt) - 1 :].sum() for table in tables)
        assert score == pytest.approx(0.3 * float(own - reference), abs=1e-4)
    assert ImplicitReward(policy, policy, tokenizer, beta=0.3)(PROMPTS, RESPONSES) == [0.0] * 3


def test_training_on_preferences_moves_the_log_ratio_their_way(policy, tokenizer) -> None:
    pairs = [{"prompt": prompt, "chosen": "+12", "rejected": "+13"} for prompt in PROMPTS] * 4
    trained = copy.deepcopy(policy)
    options = {"steps": 8, "batch_size": 6, "learning_rate": 1e-2, "seed": 0, "stage": "reward"}
    losses = fit_implicit_reward(trained, tokenizer, pairs, beta=0.5, **options)
    scorer = ImplicitReward(trained, policy, tokenizer, beta=0.5)
    assert len(losses) == 8 and losses[0] == pytest.approx(0.6931, abs=1e-3) and losses[-1] < losses[0]
    assert pairwise_accuracy(scorer, pairs) == 1.0


def quality(prompts: list[str], responses: list[str]) -> list[float]:
    return [float(response) for response in responses]


PAIRS = [{"prompt": f"p{i}", "chosen": "1.0", "rejected": "-1.0" if i % 10 else "2.0"} for i in range(400)]  # right in nine of ten


@pytest.mark.parametrize("wanted", [0.725, 0.6])
def test_a_blur_brings_the_accuracy_down_as_far_as_wanted(wanted: float) -> None:
    assert pairwise_accuracy(quality, PAIRS) == 0.9
    blur = find_blur(quality, PAIRS, wanted, seed=3)
    assert pairwise_accuracy(BlurredReward(quality, blur, 3), PAIRS) == pytest.approx(wanted, abs=0.005)
    other = [{**pair, "prompt": f"other {pair['prompt']}"} for pair in PAIRS]  # fresh draws
    assert abs(pairwise_accuracy(BlurredReward(quality, blur, 3), other) - wanted) < 0.08
    assert find_blur(quality, PAIRS, 0.95, seed=3) == 0.0  # never better than it is


def test_a_blurred_score_stays_with_its_response() -> None:
    blurred = BlurredReward(quality, 1.0, seed=0)
    assert blurred(["p", "q"], ["1", "1"]) == blurred(["q", "p"], ["1", "1"])[::-1] == blurred(["p", "q"], ["1", "1"])
    assert len(set(blurred(["p"] * 2, ["1", "2"]) + BlurredReward(quality, 1.0, seed=1)(["p"] * 2, ["1", "2"]))) == 4
    draws = torch.tensor(blurred.draws([str(i) for i in range(2000)], ["1"] * 2000))
    assert abs(draws.mean()) < 0.1 and abs(draws.std() - 1) < 0.06


def test_too_few_pairs_are_named() -> None:
    pair = {"prompt": "p", "chosen": "1", "rejected": "-1"}

    def favourable(seed: int) -> bool:
        chosen, rejected = BlurredReward(quality, 1.0, seed).draws(["p", "p"], ["1", "-1"])
        return chosen > rejected

    with pytest.raises(UserError, match=r"reward\.accuracy = 0\.6: 1 held-out pairs are too few"):
        find_blur(quality, [pair], 0.6, seed=next(filter(favourable, range(100))))
