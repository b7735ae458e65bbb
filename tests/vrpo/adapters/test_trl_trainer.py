"""`VRPOTrainer`: TRL's quick start, callbacks at their moments, stop and resume, evaluation, adapters, every method."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small import ROWS, Heard, digits, new_trainer, timeless
from tiny import METHODS, assert_same, tiny_policy
from transformers import AutoModelForCausalLM, EarlyStoppingCallback, TrainerCallback

from vrpo import VRPOConfig, VRPOTrainer
from vrpo.errors import UserError
from vrpo.models.loading import save_model

QUICK_START = """
from datasets import Dataset
from vrpo import VRPOConfig, VRPOTrainer

dataset = Dataset.from_dict({"prompt": [[{"role": "user", "content": f"{a}+2."}] for a in range(8)], "tag": list(range(8))})


def reward_num_unique_chars(completions, **kwargs):
    assert all(completion[0]["role"] == "assistant" for completion in completions)
    return [float(len(set(completion[0]["content"]))) for completion in completions]


training_args = VRPOConfig(output_dir="out", max_steps=2, num_generations=4, max_completion_length=6, disable_tqdm=True)
trainer = VRPOTrainer(
    model="model",
    reward_funcs=reward_num_unique_chars,
    args=training_args,
    train_dataset=dataset,
)
trainer.train()
trainer.save_model()
print("steps", trainer.state.global_step)
"""
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}{% if add_generation_prompt %}:{% endif %}"


@pytest.fixture
def chat_model(tmp_path) -> Path:
    from vrpo.tasks.math.chain import new_tokenizer

    tokenizer = new_tokenizer()
    tokenizer.chat_template = TEMPLATE
    save_model(tiny_policy(tokenizer), tokenizer, tmp_path / "model")
    return tmp_path / "model"


def test_the_quick_start_trains_a_local_chat_model(chat_model) -> None:
    folder = chat_model.parent
    (folder / "quick_start.py").write_text(QUICK_START)
    root = Path(__file__).parents[3]
    command = [sys.executable, "quick_start.py"]
    done = subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(root), "PATH": "", "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "steps 2" in done.stdout
    trained, before = (AutoModelForCausalLM.from_pretrained(folder / name) for name in ("out", "model"))
    assert any(not torch.equal(a, b) for a, b in zip(trained.parameters(), before.parameters(), strict=True))


def test_callbacks_hear_every_moment_once_and_in_order(tokenizer, tmp_path) -> None:
    heard = Heard()
    trainer = new_trainer(
        tokenizer, tmp_path, callbacks=[heard], eval_dataset=ROWS[:5], eval_strategy="steps", eval_steps=2, save_steps=3, logging_steps=2
    )
    assert heard.moments == [("init_end", 0)]
    output = trainer.train()
    step = [[("step_begin", n - 1), ("step_end", n)] for n in range(5)]
    assert heard.moments[1:] == [
        *[("train_begin", 0), ("log", 0), ("log", 0), ("evaluate", 0)],
        *step[1],
        *step[2],
        *[("log", 2), ("log", 2), ("evaluate", 2)],
        *step[3],
        ("save", 3),
        *step[4],
        *[("log", 4), ("log", 4), ("evaluate", 4), ("save", 4)],
        *[("log", 4), ("train_end", 4)],
    ]
    assert heard.logs == trainer.state.log_history and output.global_step == 4 and trainer.state.epoch == pytest.approx(4 * 8 / 96)
    assert [entry["eval_reward"] for entry in heard.logs if "eval_reward" in entry] == [
        row["validation/accuracy"] for row in trainer.trainer.log if "validation/accuracy" in row
    ]


def test_a_log_is_the_mean_since_the_last_one(tokenizer, tmp_path) -> None:
    trainer = new_trainer(tokenizer, tmp_path, logging_steps=2)
    trainer.train()
    rows, logs = trainer.trainer.log, [entry for entry in trainer.state.log_history if "reward" in entry and entry["step"]]
    assert [entry["step"] for entry in logs] == [2, 4]
    assert [entry["reward"] for entry in logs] == pytest.approx(
        [(rows[n - 1]["reward/observed"] + rows[n]["reward/observed"]) / 2 for n in (2, 4)]
    )
    assert [entry["rollouts"] for entry in logs] == [rows[2]["rollouts"], rows[4]["rollouts"]]


def test_steps_are_counted_as_trl_counts_them(tokenizer, tmp_path) -> None:
    """Optimiser steps: two passes over each sampling, each in two."""
    heard = Heard()
    trainer = new_trainer(tokenizer, tmp_path, callbacks=[heard], num_iterations=2, steps_per_generation=2, max_steps=8, logging_steps=3)
    assert trainer.train().global_step == trainer.trainer.policy_updates == 8 and trainer.trainer.rollouts == 2 * 16
    assert [moment for moment in heard.moments if moment[0] == "step_end"] == [("step_end", 4), ("step_end", 8)]
    assert [entry["step"] for entry in heard.logs] == [0, 4, 8, 8]


@pytest.mark.parametrize("method", [*METHODS, "pf_ppo", "asyppo"])
def test_every_method_trains_by_its_name_on_as_many_responses(tokenizer, tmp_path, method: str) -> None:
    trainer = new_trainer(tokenizer, tmp_path, method=method, save_strategy="no")
    assert trainer.train().metrics["rollouts"] == 32.0 and trainer.trainer.policy_updates == 4
    assert list(tmp_path.iterdir()) == []


class Stop(TrainerCallback):
    """Asks for an end after some step, and for what is to be done before."""

    def __init__(self, step: int, **wanted: bool) -> None:
        self.step, self.wanted = step, wanted

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step:
            for name, value in self.wanted.items():
                setattr(control, name, value)


def test_control_stops_a_run_and_a_later_one_goes_on_to_the_same_end(tokenizer, tmp_path) -> None:
    whole = new_trainer(tokenizer, tmp_path / "whole", save_steps=1)
    whole.train()
    heard = Heard()
    stopped = new_trainer(tokenizer, tmp_path / "run", callbacks=[Stop(2, should_training_stop=True), heard], save_steps=100)
    assert stopped.train().global_step == 2 and len(stopped.trainer.log) == 3 and heard.moments[-1] == ("train_end", 2)
    heard = Heard()
    resumed = new_trainer(tokenizer, tmp_path / "run", callbacks=[heard], save_steps=1)
    resumed.train(resume_from_checkpoint=True)
    assert heard.moments[:2] == [("init_end", 0), ("train_begin", 2)] and ("step_begin", 2) in heard.moments
    assert timeless(resumed.state.log_history)[:-1] == timeless(whole.state.log_history)[:-1]
    assert_same(dict(resumed.model.state_dict()), dict(whole.model.state_dict()))


def test_control_measures_and_saves_out_of_turn(tokenizer, tmp_path) -> None:
    heard, asks = Heard(), Stop(1, should_evaluate=True, should_save=True)
    new_trainer(tokenizer, tmp_path, callbacks=[asks, heard], eval_dataset=ROWS[:3], save_strategy="no").train()
    assert ("evaluate", 1) in heard.moments and ("save", 1) in heard.moments
    assert (tmp_path / "checkpoint.safetensors").is_file()


def test_resume_after_a_kill_equals_an_uninterrupted_run(tokenizer, tmp_path) -> None:
    options = {"eval_dataset": ROWS[:5], "eval_strategy": "steps", "eval_steps": 2, "save_steps": 1, "logging_steps": 3}
    whole = new_trainer(
        tokenizer, tmp_path / "whole", [digits, lambda completions, **_: [len(text) / 9 for text in completions]], **options
    )
    whole.train()

    class Kill(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs) -> None:
            if state.global_step == 2:
                raise KeyboardInterrupt

    rewards = [digits, lambda completions, **_: [len(text) / 9 for text in completions]]
    with pytest.raises(KeyboardInterrupt):
        new_trainer(tokenizer, tmp_path / "run", rewards, callbacks=[Kill], **options).train()
    resumed = new_trainer(tokenizer, tmp_path / "run", rewards, **options)
    resumed.train(resume_from_checkpoint=tmp_path / "run")
    assert timeless(resumed.state.log_history)[:-1] == timeless(whole.state.log_history)[:-1]
    assert_same(dict(resumed.model.state_dict()), dict(whole.model.state_dict()))


def test_without_a_word_a_run_starts_anew_and_without_a_checkpoint_none_goes_on(tokenizer, tmp_path) -> None:
    with pytest.raises(UserError, match="resume_from_checkpoint = True: there is no .*checkpoint.safetensors"):
        new_trainer(tokenizer, tmp_path).train(resume_from_checkpoint=True)
    new_trainer(tokenizer, tmp_path, callbacks=[Stop(2, should_training_stop=True)]).train()
    anew = new_trainer(tokenizer, tmp_path, callbacks=[heard := Heard()])
    anew.train()
    assert heard.moments[1] == ("train_begin", 0) and len(anew.trainer.log) == 5
    with pytest.raises(UserError, match="belongs to another run: .*config.learning_rate was"):
        new_trainer(tokenizer, tmp_path, learning_rate=1e-3).train(resume_from_checkpoint=True)


def test_early_stopping_of_transformers_works(tokenizer, tmp_path) -> None:
    options = {"eval_dataset": ROWS[:4], "eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "eval_reward"}
    trainer = new_trainer(
        tokenizer,
        tmp_path,
        callbacks=[EarlyStoppingCallback(2)],
        max_steps=20,
        clean_reward=lambda completions, **_: [0.5] * len(completions),
        **options,
    )
    assert trainer.train().global_step == 2 and trainer.state.best_metric == 0.5
    with pytest.raises(UserError, match="metric_for_best_model = 'eval_loss': nothing is measured under this name; use one of eval_reward"):
        new_trainer(tokenizer, tmp_path, **options | {"metric_for_best_model": "eval_loss"}).train()


def test_evaluation_is_the_clean_reward_of_rows_that_are_given(tokenizer, tmp_path) -> None:
    noise = [{"kind": "flip", "false_positive": 1.0, "false_negative": 1.0}]
    trainer = new_trainer(tokenizer, tmp_path, lambda completions, **_: [1.0] * len(completions), noise=noise, eval_dataset=ROWS[:4])
    assert trainer.evaluate()["eval_reward"] == 1.0
    found = trainer.evaluate(ROWS[:2], metric_key_prefix="test")
    assert found["test_reward"] == 1.0 and trainer.state.log_history[-1]["test_length"] == found["test_length"] > 0
    trainer.train()
    assert {row["reward/observed"] for row in trainer.trainer.log} == {0.0} and {row["reward/clean"] for row in trainer.trainer.log} == {
        1.0
    }
    with pytest.raises(UserError, match="eval_dataset is None"):
        new_trainer(tokenizer, tmp_path).evaluate()
    with pytest.raises(UserError, match="eval_strategy = 'steps': there is no eval_dataset"):
        new_trainer(tokenizer, tmp_path, eval_strategy="steps")


def test_peft_configuration_is_taken_or_refused_by_name(tokenizer, tmp_path) -> None:
    from peft import LoraConfig

    trainer = new_trainer(tokenizer, tmp_path, peft_config=LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"]))
    trainer.train()
    assert trainer.trainer.config.lora.model_dump() == {"rank": 4, "alpha": 8.0, "dropout": 0.0, "target_modules": ["q_proj"]}
    assert type(trainer.model).__name__ == "PeftModel" or hasattr(trainer.model, "peft_config")
    trainer.save_model(tmp_path / "saved")
    AutoModelForCausalLM.from_pretrained(tmp_path / "saved")  # adapters are folded in
    assert new_trainer(tokenizer, tmp_path, peft_config=LoraConfig()).trainer.config.lora.target_modules == ["q_proj", "v_proj"]
    with pytest.raises(UserError, match="peft_config.use_rslora = True"):
        new_trainer(tokenizer, tmp_path, peft_config=LoraConfig(use_rslora=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tools": [print]}, r"tools = \[<built-in.*an `environment` answers"),
        ({"optimizers": (1, None)}, r"optimizers = \(1, None\).*AdamW"),
        ({"tokenizer": 1}, "tokenizer = 1 .*processing_class"),
        ({"reward_fns": 1}, "VRPOTrainer has no argument 'reward_fns'"),
        ({"args": 1}, "args is a int; give a VRPOConfig"),
        ({"train_dataset": None}, "training data is None"),
        ({"processing_class": None}, "processing_class is None"),
        ({"model": 1}, "model: 1 .*is no model"),
    ],
)
def test_what_grpo_trainer_takes_and_this_does_not_is_refused_by_name(tokenizer, options, message: str) -> None:
    given = {"model": tiny_policy(tokenizer), "reward_funcs": digits, "train_dataset": ROWS, "processing_class": tokenizer} | options
    with pytest.raises(UserError, match=message):
        VRPOTrainer(**given)


def test_optimizers_of_none_are_what_everybody_has(tokenizer, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    policy = tiny_policy(tokenizer)
    policy.config.max_position_embeddings = 1024  # room for the default length
    trainer = VRPOTrainer(policy, digits, train_dataset=ROWS, processing_class=tokenizer, optimizers=(None, None))
    assert trainer.args == VRPOConfig(output_dir="model-VRPO")
    json.loads(trainer.args.to_json_string())
