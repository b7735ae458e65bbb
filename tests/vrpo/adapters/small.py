"""A `VRPOTrainer` whose runs take a second."""

from typing import Any

from tiny import tiny_policy
from transformers import TrainerCallback

from vrpo import VRPOConfig, VRPOTrainer

ROWS = [{"prompt": f"{a}+{b}.:", "answer": str((a + b) % 10)} for a in range(6) for b in range(4)]
SMALL = {
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_steps": 4,
    "max_completion_length": 6,
    "learning_rate": 1e-2,
    "disable_tqdm": True,
    "use_cpu": True,
}
MOMENTS = ["init_end", "train_begin", "step_begin", "step_end", "log", "evaluate", "save", "train_end", "push_begin"]


def digits(completions, **columns) -> list[float]:
    """Whether at least half of a completion is digits."""
    return [float(sum(c.isdigit() for c in text) >= 0.5 * max(len(text), 1)) for text in completions]


def new_trainer(tokenizer, folder, reward_funcs: Any = digits, rows: Any = None, **options) -> VRPOTrainer:
    """What is no argument of the trainer's is one of `VRPOConfig`."""
    own = {name: options.pop(name) for name in ("eval_dataset", "callbacks", "peft_config", "clean_reward") if name in options}
    args = VRPOConfig(str(folder), **SMALL | options)
    return VRPOTrainer(
        model=tiny_policy(tokenizer), reward_funcs=reward_funcs, args=args, train_dataset=rows or ROWS, processing_class=tokenizer, **own
    )


class Heard(TrainerCallback):
    """Every moment with its step."""

    def __init__(self) -> None:
        self.moments: list[tuple[str, int]] = []
        self.logs: list[dict[str, float]] = []

    def on_log(self, args, state, control, logs, **kwargs) -> None:
        self.moments.append(("log", state.global_step))
        self.logs.append(dict(logs) | {"step": state.global_step})


def _heard(name: str):
    def moment(self, args, state, control, **kwargs) -> None:
        assert kwargs["model"] is not None and kwargs["processing_class"] is not None
        self.moments.append((name, state.global_step))

    return moment


for _name in MOMENTS:
    if _name != "log":
        setattr(Heard, f"on_{_name}", _heard(_name))


def timeless(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in entry.items() if key not in ("tokens_per_second", "train_runtime")} for entry in history]
