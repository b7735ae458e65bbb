"""TRL's arguments: each of the installed version is mapped or refused by name, and docs/trl.md says which."""

import dataclasses
import re
from pathlib import Path

import pytest
from transformers import HfArgumentParser

from vrpo import VRPOConfig
from vrpo.adapters.config import FIELDS, NAMES, SETTINGS
from vrpo.adapters.plan import plan
from vrpo.adapters.refused import GRPO, REFUSED, TRANSFORMERS
from vrpo.config import GenerationConfig, TrainConfig
from vrpo.errors import UserError

PAGE = Path(__file__).parents[3] / "docs" / "trl.md"


def test_no_argument_of_the_installed_trl_is_forgotten() -> None:
    from trl import GRPOConfig

    theirs = {field.name for field in dataclasses.fields(GRPOConfig)}
    assert theirs - set(NAMES) - set(REFUSED) == set(), "map them in vrpo/adapters/config.py, or refuse them in refused.py"
    assert GRPO.keys() | TRANSFORMERS.keys() <= theirs and not set(NAMES) & set(REFUSED)


def test_every_setting_of_a_run_can_be_reached() -> None:
    computed = {"iterations", "rollouts", "minibatches", "lr_warmup", "measure_every", "checkpoint_every"}
    reached = {key for section, key in (setting.split(".") for setting in SETTINGS.values()) if section == "train"}
    assert reached | computed == set(TrainConfig.model_fields)
    assert {setting.partition(".")[2] for setting in SETTINGS.values() if setting.startswith("generation")} == set(
        GenerationConfig.model_fields
    )


def test_the_page_says_what_the_code_does() -> None:
    from docs.trl import OURS, render

    page = PAGE.read_text(encoding="utf-8")
    assert page == render(page), "python -m docs.trl"
    for name in (*NAMES, *REFUSED):
        assert len(re.findall(rf"^\|[^|]*`{name}`", page, re.MULTILINE)) == 1, name
    from trl import GRPOConfig

    theirs = {field.name for field in dataclasses.fields(GRPOConfig)}
    assert set(NAMES) - theirs == OURS


@pytest.mark.parametrize("name", [*REFUSED])
def test_what_is_not_here_is_refused_with_its_value_and_a_cure(name: str) -> None:
    with pytest.raises(UserError, match=rf"^{name} = 12345 \(int\): .{{10,}}") as said:
        VRPOConfig(**{name: 12345})
    assert REFUSED[name].cure in str(said.value)
    for value in (None, *REFUSED[name].holds):
        assert VRPOConfig(**{name: value}) == VRPOConfig()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lerning_rate": 1.0}, "lerning_rate = 1.0 .*did you mean 'learning_rate'"),
        ({"use_vllm": True}, "use_vllm = True .*engine"),
        ({"loss_type": "dr_grpo"}, "loss_type = 'dr_grpo': .*method='dr_grpo'"),
        ({"lr_scheduler_type": "cosine"}, "lr_scheduler_type = 'cosine': use constant_with_warmup or constant"),
        ({"lr_scheduler_type": "constant", "warmup_steps": 3}, "lr_scheduler_type = 'constant': use constant_with_warmup"),
        ({"save_strategy": "best"}, "save_strategy = 'best': use no or steps or epoch"),
        ({"bf16": True, "fp16": True}, "bf16 = True and fp16 = True"),
        ({"epsilon": -1.0}, "epsilon = -1.0 .*greater than 0"),
        ({"critic": {"dept": 1}}, "critic.dept = 1 .*docs/parameters.md"),
        ({"critic": {"warmup_rollouts": 7}}, "critic.warmup_rollouts=7 leaves .*use"),
        ({"max_completion_length": 0}, "max_completion_length = 0 .*greater than or equal to 1"),
        ({"num_generations": 3}, "num_generations = 3: 8 responses .*use a divisor of 8"),
        ({"num_generations": 0}, "num_generations = 0: give a whole number"),
        ({"max_steps": 5, "num_iterations": 2}, "max_steps = 5: one sampling serves 2 .*use 4"),
        ({"steps_per_generation": 3, "gradient_accumulation_steps": 2}, "steps_per_generation = 3: .*use 4"),
        ({"generation_batch_size": 8, "steps_per_generation": 1}, "generation_batch_size = 8: says the same"),
        ({"generation_batch_size": 12}, "generation_batch_size = 12: no multiple of .* = 8"),
        ({"save_steps": 0.1}, "save_steps = 0.1: give a whole number of steps"),
        ({"lora": {"rnk": 1}}, "lora.rnk = 1"),
    ],
)
def test_mistakes_are_named_by_the_argument_that_was_given(given: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan(VRPOConfig(**given), 24)


def test_arguments_arrive_where_the_table_says() -> None:
    given = {"learning_rate": 3e-4, "beta": 0.02, "epsilon": 0.1, "num_iterations": 2, "num_generations": 4, "temperature": 0.7}
    found = plan(VRPOConfig(**given, max_completion_length=9, max_steps=6, warmup_steps=0.5, save_steps=3, critic={"depth": 2}), 24)
    train = found.train
    assert (train.learning_rate, train.kl_coefficient, train.clip_range, train.epochs, train.group_size) == (3e-4, 0.02, 0.1, 2, 4)
    assert (found.generation.temperature, found.generation.max_new_tokens) == (0.7, 9)
    assert (train.iterations, found.stride, train.rollouts, train.lr_warmup, train.checkpoint_every) == (3, 2, 24, 2, 2)
    assert train.critic.depth == 2 and train.critic.learning_rate == pytest.approx(3e-3)
    assert plan(VRPOConfig(critic={"learning_rate": 0.5}), 24).train.critic.learning_rate == 0.5


@pytest.mark.parametrize(
    ("given", "processes", "iterations", "batch"),
    [
        ({}, 1, 72, 8),  # TRL: 24 prompts x 8 generations x 3 epochs / 8 a step
        ({"gradient_accumulation_steps": 4}, 1, 18, 32),
        ({"num_train_epochs": 0.5}, 2, 6, 16),
        ({"generation_batch_size": 64, "num_train_epochs": 1.0}, 1, 3, 64),
        ({"max_steps": 7, "method": "grpo"}, 1, 7, 8),
    ],
)
def test_epochs_and_batches_are_counted_as_trl_counts_them(given: dict, processes: int, iterations: int, batch: int) -> None:
    found = plan(VRPOConfig(**given), 24, processes)
    assert (found.train.iterations, found.train.rollouts) == (iterations, iterations * batch)
    assert found.epochs == pytest.approx(iterations * batch / (24 * 8))


def test_it_is_a_dataclass_for_parsers_and_trackers() -> None:
    (args,) = HfArgumentParser(VRPOConfig).parse_args_into_dataclasses(["--output_dir", "x", "--max_steps", "3", "--report_to", "mlflow"])
    assert args == VRPOConfig("x", max_steps=3, report_to=["mlflow"]) and dataclasses.replace(args, seed=7).seed == 7
    assert VRPOConfig(hub_token="secret").to_dict()["hub_token"] is None and "secret" not in repr(VRPOConfig(hub_token="secret"))
    assert all(field.metadata["help"] for field in FIELDS.values())
