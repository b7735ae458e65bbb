"""PPO: our trainer against the last PPOTrainer of TRL (1.12.0, `trl.experimental.ppo`), reward model included on both sides.

Same policy, value backbone and reward model (each d 96 x 2 layers), 192 rollouts, one epoch of two updates of policy and critic an
iteration. TRL 1.12.0 lives in a folder of its own and runs in a process of its own (`trl_ppo.py`). Ours is measured a second time with
one backbone for policy and critic, which TRL's does not have.

The floor says how fast an iteration's update could be: its counted FLOPs at the rate of a large matrix product on this machine.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.gemm import gemm_rate, profile
from tests.benchmarks.setup import ROLLOUTS, alternate, gaps, our_trainer, problems, ratio_claim, spread, timed, tiny_model

FOLDER = Path(".cache/trl-1.12.0")


def run(quick: bool) -> dict[str, Any]:
    from vrpo.models.loading import save_model
    from vrpo.rewards.model import RewardModelScorer, new_reward_model

    if not (FOLDER / "trl").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--target", str(FOLDER), "trl==1.12.0"], check=True)
    rows, iterations = problems(1024), 4 if quick else 8
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, tokenizer = tiny_model(20 if quick else 120)
        save_model(model, tokenizer, folder / "policy")
        reward_model, reward_tokenizer = new_reward_model(folder / "policy", seed=0)
        save_model(reward_model, reward_tokenizer, folder / "reward")
        (folder / "prompts.json").write_text(json.dumps([row["prompt"] for row in rows]), encoding="utf-8")
        scorer = RewardModelScorer(folder / "reward")
        phases: dict[str, dict[str, float]] = {}

        def reward(prompts, responses, **columns):
            return scorer(prompts, responses)

        def ours(backbone: str) -> float:
            critic = {"warmup_rollouts": 0, "backbone": backbone}
            trainer, stamps = our_trainer("ppo", model, tokenizer, reward, iterations, rows, critic=critic)
            trainer.run()
            phases[backbone] = {name: seconds / iterations for name, seconds in trainer.timer.seconds.items()}
            return ROLLOUTS / gaps(stamps)

        def theirs() -> float:
            environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(FOLDER), "."]), "TRL_EXPERIMENTAL_SILENCE": "1"}
            command = [sys.executable, "-m", "tests.benchmarks.trl_ppo", str(folder), str(iterations)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"TRL's PPO failed: {done.stderr[-2000:]}")
            return ROLLOUTS / gaps(json.loads(done.stdout.splitlines()[-1]))

        sides = {"separate": lambda: ours("separate"), "shared": lambda: ours("shared"), "theirs": theirs}
        measured = alternate(sides, 1 if quick else 5)
        floor = update_floor(our_trainer("ppo", model, tokenizer, reward, 1, rows)[0], rows)
    return {
        "samples_per_second": {name: spread(values) for name, values in measured.items()},
        "seconds_of_ours_an_iteration": phases,
        "update_of_ours": floor,
        "rollouts": ROLLOUTS,
        "claims": [
            ratio_claim("PPO samples/s over TRL 1.12.0", measured["separate"], measured["theirs"], 3.0),
            ratio_claim("PPO with a shared backbone, samples/s over TRL 1.12.0", measured["shared"], measured["theirs"], 3.0),
        ],
    }


def update_floor(trainer: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Seconds of one iteration's update, seconds that its FLOPs take at the machine's matrix product rate, and where the time goes."""
    experience, _ = trainer.collect(rows[:ROLLOUTS], [0] * ROLLOUTS, iteration=1)

    def update() -> None:
        trainer.update(experience, 1, steps=2, policy_epochs=1, critic_epochs=1)

    update()
    with FlopCounterMode(display=False) as counter:
        update()
    seconds = statistics.median(timed(update) for _ in range(5))
    return {
        "seconds": seconds,
        "seconds_at_gemm_rate": counter.get_total_flops() / gemm_rate(),
        "where_time_goes": profile(update),
    }
