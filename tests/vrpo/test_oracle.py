"""The oracle's values: exact in chain arithmetic, and of use to PPO."""

import random

import pytest
import torch
from tiny import config, trainer

from vrpo.algorithms.oracle import Oracle, calibrated
from vrpo.data.batch import Experience, Rollout
from vrpo.errors import UserError
from vrpo.metrics.rollout import experience_metrics
from vrpo.rewards.experience import new_experience
from vrpo.tasks.math.chain import ChainTask, work_through
from vrpo.tasks.math.chain_oracle import ChainOracle, read_sheet, success_chances


def test_chances_equal_what_happens() -> None:
    question, slip, rng = "3+5*4-7", 0.3, random.Random(0)
    chances = success_chances(question, slip)
    sheets = [work_through(question, rng, slip) for _ in range(20_000)]
    right = [sheet[-1] == work_through(question)[-1] for sheet in sheets]
    assert chances[0][3] == pytest.approx(sum(right) / len(right), abs=0.015)
    after_a_slip = [end for sheet, end in zip(sheets, right, strict=True) if sheet[2] == "1"]  # 3+5 is not 1
    assert chances[1][1] == pytest.approx(sum(after_a_slip) / len(after_a_slip), abs=0.06)
    assert chances[3] == [float(digit == int(work_through(question)[-1])) for digit in range(10)]


@pytest.mark.parametrize(
    ("sheet", "states", "results"),
    [
        ("+58-26E", [(0, 3), (0, 3), (0, 3), (1, 8), (1, 8), (1, 8), (2, 6)], [True, True]),
        ("+59?-27E", [(0, 3), (0, 3), (0, 3), (1, 9), (1, 9), (1, 9), (1, 9), (2, 7)], [False, True]),
        ("+48-26E", [(0, 3), (0, 3), None, None, None, None, None], []),  # a wrong operand
        ("+58-26+1", [(0, 3), (0, 3), (0, 3), (1, 8), (1, 8), (1, 8), (2, 6), None], [True, True]),  # goes on after the end
        ("+5E", [(0, 3), (0, 3), (0, 3)], []),
    ],
)
def test_states_of_a_sheet(sheet: str, states: list, results: list) -> None:
    tokens = ["<eos>" if token == "E" else token for token in sheet]
    assert read_sheet("3+5-2", tokens) == (states, results)


def test_values_of_a_batch_stand_on_their_tokens(tokenizer) -> None:
    task, question = ChainTask(3), "3+5-2"
    prompt = tokenizer(task.prompt(question), add_special_tokens=False)["input_ids"]
    right, wrong = (tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] for text in ("+58-26", "+59-27"))
    mask = torch.ones(2, len(right) + 1, dtype=torch.bool)
    mask[:, -1] = False
    batch = Experience(
        prompts=torch.tensor([[tokenizer.pad_token_id, *prompt]] * 2),
        prompt_mask=torch.tensor([[False] + [True] * len(prompt)] * 2),
        responses=torch.tensor([[*right, 0], [*wrong, 0]]),
        response_mask=mask,
        logprobs=torch.zeros(mask.shape),
    )
    values = ChainOracle(tokenizer)(batch)
    chances = success_chances(question, 0.25)  # one result of four is wrong
    assert values[0].tolist() == pytest.approx([chances[0][3]] * 3 + [chances[1][8]] * 3 + [1.0, 0.0])
    assert values[1].tolist() == pytest.approx([chances[0][3]] * 3 + [chances[1][9]] * 3 + [0.0, 0.0])


def test_calibration_finds_the_affine_noise() -> None:
    success = torch.rand(64, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(5) < torch.randint(1, 6, (64, 1), generator=torch.Generator().manual_seed(1))
    success = success[:, :1].expand(-1, 5)
    fitted = calibrated(success, 0.2 + 0.6 * success[:, 0], mask)
    assert torch.allclose(fitted, (0.2 + 0.6 * success) * mask, atol=1e-6)


def test_a_task_without_known_values_is_named(tokenizer, problems) -> None:
    with pytest.raises(UserError, match="needs a task whose values are known"):
        trainer(tokenizer, problems, "oracle").run()


def test_the_oracle_trains_without_a_critic_or_its_rollouts(tokenizer, problems) -> None:
    run = trainer(tokenizer, problems, "oracle")
    run.algorithm.success = ChainOracle(tokenizer)
    log = run.run()
    assert run.critic is None and run.rollouts == 96 and run.policy_updates == 6
    assert all(row["policy/grad_norm"] > 0 for row in log[1:])


def test_noise_of_the_oracle_s_advantages_is_that_of_the_rewards_alone() -> None:
    """Both are estimated over the same values; two fits would leave their difference in the noise."""
    oracle = Oracle(config(gae_lambda=0.8), None, 0)
    lengths = torch.tensor([1, 3, 4, 2] * 8)
    mask = torch.arange(4) < lengths[:, None]
    success = torch.rand(mask.shape, generator=torch.Generator().manual_seed(0)) * mask
    oracle.success = lambda experience: success
    ids = torch.zeros(mask.shape, dtype=torch.long)
    clean = [float(i % 3 == 0) for i in range(32)]
    observed = [1 - value if i % 5 == 0 else value for i, value in enumerate(clean)]
    experience = new_experience(Rollout(ids[:, :1], mask[:, :1], ids, mask, torch.zeros(mask.shape)), observed)
    flips = torch.tensor(observed) - torch.tensor(clean)
    noise = (flips[:, None] * 0.8 ** (lengths[:, None] - 1 - torch.arange(4)))[mask]
    found = experience_metrics(experience, observed, clean, oracle.advantages)
    assert found["advantage/noise_variance"] == pytest.approx(float(noise.var(correction=0)), rel=1e-4)
