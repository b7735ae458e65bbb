"""Train a language model on a reward of yours.

You need three things. A model: a folder, or a hub id. Data: one row for each prompt, in a column `prompt` (text, or a list of messages), with
any further columns. A reward: a Python function that gets the responses and your columns, and returns one number for each response, or None
where it cannot tell. Functions written for TRL work as they are. Say `my_reward.py` holds

    def right(prompts, completions, answer, **columns):
        return [float(text.strip().endswith(a)) for text, a in zip(completions, answer)]

and `questions.jsonl` one object a line, {"prompt": "What is 3 + 4? ", "answer": "7"}. Then

    vrpo train --model my-model --data questions.jsonl --reward my_reward.py:right --output my-run

trains, says how it goes, and leaves the model in my-run (the value model in my-run/value_model). Run the same command again after a crash
and it goes on where it was, to the same result. What you do not say is chosen to fit the model and the data, and printed.

    --method grpo                 another algorithm; all spend the same number of responses
    --noise '{kind: flip, false_positive: 0.2, false_negative: 0.2}'
                                  a reward that lies: what does the method make of it?
    --reward a.py:f --reward b.py:g --reward-weights 1 0.2
                                  several rewards
    --chat                        prompts are questions to a chat model
    --lora                        adapters instead of all weights
    --report-to wandb mlflow      curves elsewhere
    --push-to me/my-model         to the hub when done; ./a/folder gets the same files
    --set gae_lambda=0.95 --set 'critic={depth: 2}'
                                  anything else that VRPOConfig takes (docs/trl.md)
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import yaml

from vrpo.adapters.config import TRACKERS, VRPOConfig
from vrpo.config import RuntimeConfig
from vrpo.console.arguments import above_zero, one_of, output_folder, whole
from vrpo.console.data import read_rows, split_off, with_prompts
from vrpo.console.sampling import A_MODEL, load_model, model_source
from vrpo.console.sizing import defaults, held_out
from vrpo.kinds import names
from vrpo.own_code import load, naming

OPTIONS = {  # of this command: what VRPOConfig calls them
    "method": "method",
    "steps": "max_steps",
    "learning_rate": "learning_rate",
    "group_size": "num_generations",
    "max_new_tokens": "max_completion_length",
    "temperature": "temperature",
    "beta": "beta",
    "reward_weights": "reward_weights",
    "noise": "noise",
    "seed": "seed",
    "cpu": "use_cpu",
    "bf16": "bf16",
    "report_to": "report_to",
    "push_to": "hub_model_id",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    main = parser.add_argument_group("what is trained on what")
    main.add_argument("--model", metavar="MODEL", type=model_source, required=True, help=A_MODEL)
    main.add_argument("--data", metavar="DATA", required=True, help="a .jsonl, .csv or .parquet file, a folder of such, or a hub id")
    main.add_argument("--reward", metavar="FILE.py:NAME", action="append", required=True, help="a function in a file; may be repeated")
    main.add_argument("--reward-weights", metavar="W", type=float, nargs="+", help="one for each reward (default: 1 each)")
    main.add_argument("--output", metavar="FOLDER", type=output_folder, required=True, help="for the checkpoint and the trained model")
    main.add_argument(
        "--method", type=one_of(names("algorithms")), default="vrpo", help=f"{', '.join(names('algorithms'))} (default: vrpo)"
    )
    main.add_argument("--noise", metavar="CHANNEL", type=_mapping, action="append", help="a noise channel on the reward; may be repeated")
    data = parser.add_argument_group("data")
    data.add_argument("--split", default="train", help="of a folder or hub id (default: %(default)s)")
    data.add_argument("--eval-data", metavar="DATA", help="rows to measure on (default: a tenth of the data, at most 64 rows, is held out)")
    data.add_argument("--prompt-column", metavar="NAME", default="prompt", help="the column with the prompts (default: %(default)s)")
    data.add_argument("--chat", action="store_true", help="prompts are a user's messages, for the model's chat template")
    size = parser.add_argument_group("sizes (defaults fit the model and the data)")
    size.add_argument("--steps", metavar="N", type=whole(1), help="updates of the policy")
    size.add_argument("--learning-rate", metavar="RATE", type=above_zero, help="of the policy; the critic's is ten times that")
    size.add_argument("--group-size", metavar="N", type=whole(1), help="responses to a prompt, of methods that compare them")
    size.add_argument("--max-new-tokens", metavar="N", type=whole(1), help="longest response")
    size.add_argument("--temperature", type=above_zero, help="of sampling (default: 1)")
    size.add_argument("--beta", type=above_zero, help="weight of the divergence from the model before training (default: 0)")
    size.add_argument("--lora", metavar="RANK", type=whole(1), nargs="?", const=16, help="train adapters (RANK 16) instead of all weights")
    size.add_argument("--bf16", action="store_true", default=None, help="compute in bfloat16")
    size.add_argument("--cpu", action="store_true", default=None, help="even where there is a GPU")
    size.add_argument("--seed", type=whole(0, 2**32 - 1), default=0, help="of everything random (default: %(default)s)")
    size.add_argument("--set", metavar="NAME=VALUE", type=_setting, action="append", default=[], help="any argument of VRPOConfig")
    out = parser.add_argument_group("where results go")
    out.add_argument("--report-to", type=one_of(TRACKERS), nargs="+", help=", ".join(TRACKERS))
    out.add_argument("--push-to", metavar="TARGET", help="a hub id; or a folder, as ./NAME or an absolute path, in the hub's layout")
    out.add_argument("--restart", action="store_true", help="start anew where an earlier run of this command stopped")


def run(arguments: argparse.Namespace) -> None:
    """Train, save, say what came out."""
    given = _given(arguments)
    VRPOConfig(**given)  # mistakes are told before anything is loaded
    rewards = []
    for spec in arguments.reward:
        with naming("--reward", spec):
            rewards.append(load(spec, Path()))
    rows, held = _rows(arguments)
    policy, tokenizer = load_model(arguments.model, RuntimeConfig(trust_remote_code=given.get("trust_remote_code", False)))
    from vrpo.adapters.trl import VRPOTrainer
    from vrpo.console.progress import Progress, in_words, start_to_end

    parameters, start = sum(parameter.numel() for parameter in policy.parameters()), time.perf_counter()
    chosen = _sizes(policy, tokenizer, rows, given | {"eval_strategy": given.get("eval_strategy", "steps" if held else "no")})
    trainer = VRPOTrainer(policy, rewards, VRPOConfig(**chosen), rows, held, tokenizer, callbacks=[Progress])
    train, generation = trainer.plan.train, trainer.plan.generation
    print(
        f"{arguments.method} on {arguments.model} ({parameters / 1e6:.3g}M parameters): {len(rows)} prompts, {len(held)} held out\n"
        f"{trainer.plan.max_steps} steps, {train.rollouts} responses of at most {generation.max_new_tokens} tokens, "
        f"{trainer.trainer.algorithm.warmup_rollouts} of them before the first step for the critic; "
        f"learning rate {train.learning_rate:g}, on {trainer.model.device}",
        flush=True,
    )
    if isinstance(rows[0]["prompt"], str) and getattr(tokenizer, "chat_template", None):
        print("note: the model has a chat template and the prompts are plain text; --chat makes messages of them", flush=True)
    trainer.train(resume_from_checkpoint=trainer.checkpoint.is_file() and not arguments.restart)
    trainer.save_model()
    where = trainer.push_to_hub() if arguments.push_to else None
    print("\n".join([f"done in {in_words(time.perf_counter() - start)}", *start_to_end(trainer.state.log_history)]))
    print(f"saved in {arguments.output}" + f", and at {where}" * (where is not None))
    print(f"next: {_next(arguments)}")


def _next(arguments: argparse.Namespace) -> str:
    """A command that looks at what was trained."""
    data = arguments.eval_data or arguments.data
    if data.endswith(".jsonl") and arguments.prompt_column == "prompt" and not arguments.chat:
        return f"vrpo score --model {arguments.output} --data {data} --reward {arguments.reward[0]}"
    return f"vrpo score --model {arguments.output} --help"


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the user asked for, by the names of `VRPOConfig`."""
    found = {theirs: getattr(arguments, ours) for ours, theirs in OPTIONS.items() if getattr(arguments, ours) is not None}
    if arguments.lora:
        found["lora"] = {"rank": arguments.lora, "alpha": 2.0 * arguments.lora}
    return found | dict(arguments.set) | {"output_dir": str(arguments.output), "disable_tqdm": True}


def _rows(arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows to train on, and rows to measure on."""

    def read(source: str) -> list[dict[str, Any]]:
        return with_prompts(read_rows(source, arguments.split), arguments.prompt_column, arguments.chat, source)

    rows = read(arguments.data)
    if arguments.eval_data:
        return rows, read(arguments.eval_data)
    return split_off(rows, held_out(len(rows)), arguments.seed)


def _sizes(policy: Any, tokenizer: Any, rows: list[dict[str, Any]], given: dict[str, Any]) -> dict[str, Any]:
    """All arguments: those given, and others that fit."""
    from vrpo.data.prompts import prompt_rows
    from vrpo.data.text import encode
    from vrpo.models.limits import position_limit

    prompts = encode(tokenizer, [row["prompt"] for row in prompt_rows(rows, tokenizer)])
    limit = position_limit(policy)
    parameters = sum(parameter.numel() for parameter in policy.parameters())
    return defaults(parameters, limit and limit[1], max(map(len, prompts)), len(rows), given)


def _value(text: str) -> Any:
    """JSON, YAML, or the text itself: JSON first, for YAML takes 1e-5 for a word."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _setting(text: str) -> tuple[str, Any]:
    """NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r:.80}: write NAME=VALUE, for instance gae_lambda=0.95")
    return name, _value(value)


def _mapping(text: str) -> dict[str, Any]:
    """{key: value, ...} as in params.yaml."""
    value = _value(text)
    if not isinstance(value, dict) or "kind" not in value:
        raise argparse.ArgumentTypeError(f"{text!r:.80}: write {{kind: NAME, ...}}, as docs/parameters.md lists them under noise")
    return value
