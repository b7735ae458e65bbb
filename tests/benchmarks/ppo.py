"""PPO: our trainer against the last PPOTrainer of TRL (1.12.0, `trl.experimental.ppo`), reward model included on both sides.

Same policy, value backbone and reward model (each d 96 x 2 layers), 192 rollouts, one epoch of two updates of policy and critic an
iteration, a reference model on both sides. TRL 1.12.0 lives in a folder of its own and runs in a process of its own (`trl_ppo.py`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.setup import ROLLOUTS, alternate, gaps, our_trainer, problems, ratio_claim, spread, tiny_model

FOLDER = Path(".cache/trl-1.12.0")


def run(quick: bool) -> dict[str, Any]:
    from vrpo.models import save_model
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
        scorer = RewardModelScorer(folder / "reward", batch_size=ROLLOUTS)
        phases: dict[str, float] = {}

        def ours() -> float:
            def reward(prompts, responses, **columns):
                return scorer(prompts, responses)

            trainer, stamps = our_trainer("ppo", model, tokenizer, reward, iterations, rows)
            trainer.run()
            phases.update(trainer.timer.seconds)
            return ROLLOUTS / gaps(stamps)

        def theirs() -> float:
            environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(FOLDER), "."]), "TRL_EXPERIMENTAL_SILENCE": "1"}
            command = [sys.executable, "-m", "tests.benchmarks.trl_ppo", str(folder), str(iterations)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"TRL's PPO failed: {done.stderr[-2000:]}")
            return ROLLOUTS / gaps(json.loads(done.stdout.splitlines()[-1]))

        measured = alternate({"ours": ours, "theirs": theirs}, 1 if quick else 5)
    return {
        "samples_per_second": {name: spread(values) for name, values in measured.items()},
        "seconds_of_ours": phases,
        "rollouts": ROLLOUTS,
        "claims": [ratio_claim("PPO samples/s over TRL 1.12.0", measured["ours"], measured["theirs"], 3.0)],
    }
