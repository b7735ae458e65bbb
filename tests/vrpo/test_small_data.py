"""A budget without arithmetic: the value warm-up takes its share of whatever there is."""

import pytest
from tiny import METHODS, count_digits, tiny_policy

from vrpo.config import CriticConfig, GenerationConfig, TrainConfig
from vrpo.training.trainer import Trainer


@pytest.mark.parametrize("method", [*METHODS, "pf_ppo", "asyppo"])
def test_twenty_four_rows_train_with_iterations_and_rollouts_alone(tokenizer, problems, method: str) -> None:
    config, generation = TrainConfig(iterations=4, rollouts=320, group_size=4), GenerationConfig(max_new_tokens=4)
    run = Trainer(config, tiny_policy(tokenizer), tokenizer, problems[:24], count_digits, method=method, generation=generation)
    log = run.run()
    assert len(log) == 5 and log[-1]["rollouts"] == 320 and run.policy_updates == 8
    warmup = run.algorithm.warmup_rollouts
    assert log[0]["rollouts"] == warmup and (warmup > 0) == (run.critic is not None)


@pytest.mark.parametrize("iterations", [1, 3, 12, 50])
@pytest.mark.parametrize("group_size", [1, 2, 8])
@pytest.mark.parametrize("minibatches", [1, 2, 5])
@pytest.mark.parametrize("groups", [1, 2, 3, 30])
def test_the_default_is_about_a_third_and_divides(iterations: int, group_size: int, minibatches: int, groups: int) -> None:
    if groups * group_size < minibatches:
        return
    config = TrainConfig(iterations=iterations, rollouts=iterations * group_size * groups, group_size=group_size, minibatches=minibatches)
    for multiple in (1, group_size):
        warmup = config.value_warmup(multiple)
        left = config.rollouts - warmup
        assert warmup % (iterations * multiple) == left % (iterations * multiple) == 0 and left >= iterations * minibatches
        each = config.rollouts // iterations
        assert (
            abs(warmup - config.rollouts / 3) <= iterations * multiple / 2
            or left < iterations * (minibatches + multiple)
            or each < minibatches
        )


def test_a_number_is_kept_and_none_leaves_no_trace_in_dumps() -> None:
    config = TrainConfig(critic=CriticConfig(warmup_rollouts=2016))
    assert config.value_warmup() == config.value_warmup(8) == 2016
    assert config.model_dump(mode="json")["critic"]["warmup_rollouts"] == 2016
    assert TrainConfig(critic={"warmup_rollouts": 0}).value_warmup() == 0
    assert TrainConfig().critic.warmup_rollouts is None and TrainConfig().value_warmup() == 1440
    assert "warmup_rollouts" not in TrainConfig().model_dump(mode="json")["critic"]
