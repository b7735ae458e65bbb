"""The dialogue domain through every stage, in miniature: labels with wrong goals, both kinds of reward, training, metrics, report."""

import json
import math
import random
from pathlib import Path

import pytest

from pipeline.files import read_jsonl
from pipeline.params import Params
from pipeline.stages import base, evaluate, label, observed, prepare, report, reward, sft, train, validate
from pipeline.workspace import HERE
from vrpo.data.prompts import TURN_SEPARATOR
from vrpo.rollout import samples as evaluation
from vrpo.tasks.dialogue.assistant import converse_script
from vrpo.tasks.dialogue.scenario import load_scenario
from vrpo.tasks.dialogue.task import DialogueTask

SETTINGS = {
    "domain": "dialogue",
    "methods": ["vrpo"],
    "seeds": [0],
    "generation": {"max_new_tokens": 6},
    "prepare": {"train_size": 40, "validation_size": 6, "test_size": 8},
    "base": {"hidden_size": 32, "layers": 1, "heads": 2, "steps": 12, "batch_size": 8, "slip_rate": 0.3},
    "label": {"source": "clean", "wrong_reference_rate": 0.5},
    "sft": {"demonstrations": 8, "steps": 2, "batch_size": 4},
    "train": {
        "iterations": 2,
        "rollouts": 24,
        "group_size": 4,
        "measure_every": 1,
        "monte_carlo_prefixes": 4,
        "monte_carlo_samples": 2,
        "critic": {"warmup_rollouts": 8, "warmup_epochs": 1, "latent_size": 8},
    },
    "evaluate": {"samples": 2},
}


class Recorder:
    """Takes what a stage reports, keeps nothing."""

    def metrics(self, values: dict, step: int | None = None) -> None: ...
    def model(self, path: Path, kind: str, metrics: dict) -> None: ...
    def dataset(self, path: Path, context: str) -> None: ...
    def resume(self, rows: list) -> None: ...
    def artifact(self, path: Path) -> None: ...
    def champion(self, candidates: list, runs: Path) -> None: ...


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder in which everything up to the cold start has run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("dialogue"))
        for stage in (prepare, validate, base, label, sft):
            stage.run(Params.model_validate(SETTINGS), record=Recorder())
        yield Path.cwd()


def test_wrong_goals_are_labels_that_right_dialogues_fail(project) -> None:
    task, rows = DialogueTask(), read_jsonl(Path("data/labels/train.jsonl"))
    assert 5 < sum(row["label"] != row["clean"] for row in rows) < 35
    for row in rows:
        right, wrong = task.canonical_response(row["clean"]), task.canonical_response(row["label"])
        same = row["label"] == row["clean"]
        assert row["correct"] == float(same)
        assert task.verify([right, wrong], [row["label"]] * 2) == [float(same), 1.0]


def test_a_run_is_trained_scored_and_reported(project) -> None:
    config = Params.model_validate(SETTINGS)
    reward.run(config, record=Recorder())
    train.run(config, "vrpo", 0, record=Recorder())
    headline = evaluate.run(config, "vrpo", 0, record=Recorder())
    found = json.loads(Path("data/evaluations/vrpo-0.json").read_text())
    assert found["dialogue"]["tcr"] == found["accuracy"]["mean"] == headline["accuracy"]
    assert set(found["dialogue"]["pass_hat_k"]) == {"1", "2"} and found["dialogue"]["dialogues"] == 16
    for response in json.loads(Path("data/tokens/vrpo-0.json").read_text()):
        assert len(response["tokens"]) == len(response["advantages_observed"]) <= 60  # the assistant's, 10 turns of 6
    report.run(config, record=Recorder())
    assert "pass^2" in Path("data/reports/report.md").read_text()
    values = json.loads(Path("data/reports/summary.json").read_text())["methods"]["vrpo"]
    assert values["tcr"]["mean"] == pytest.approx(found["dialogue"]["tcr"]) and values["length_inflation"]["mean"] > 0


def test_a_reward_model_reads_whole_dialogues(project, monkeypatch) -> None:
    """The cold start here completes no task, so pairs come from the scripted assistant: one perfect dialogue, three with slips."""

    def scripted(sampler, prompts, samples, *, seed, reply, progress):
        texts = []
        for place in range(len(prompts)):
            scenario, rng = load_scenario(rows[place]["answer"]), random.Random(place)
            lines = [converse_script(scenario, 10), *(converse_script(scenario, 10, rng, 0.6) for _ in range(samples - 1))]
            texts.append([TURN_SEPARATOR.join(said) for said in lines])
        return texts, []

    settings = {"kind": "model", "pairs": 16, "steps": 8, "learning_rate": 0.005, "length_bias": 0.5}
    config = Params.model_validate(
        SETTINGS
        | {
            "reward": settings,
        }
    )
    rows = random.Random("reward-0").sample(read_jsonl(Path("data/prepared/train.jsonl")), 40)
    monkeypatch.setattr(evaluation, "sample_texts", scripted)
    metrics = reward.run(config, record=Recorder())
    assert metrics["pairs"] == 16 and metrics["noisy_share"] > 0
    monkeypatch.undo()
    task, answer = DialogueTask(), rows[0]["answer"]
    prompts, right = [task.prompt(rows[0]["question"])] * 2, task.canonical_response(answer)
    responses = [right, right.replace("=", "= ", 1)]
    seen = observed.observed_reward(config, task, 0, HERE)(prompts, responses, answer=[answer] * 2)
    whole = reward.load_scorer(config, HERE)(prompts, [task.completion(response, answer) for response in responses])
    assert seen == pytest.approx([1 / (1 + math.exp(-score)) for score in whole], abs=1e-6)
    pairs = evaluation.PolicySamples([rows[0]], [responses], [], [1.0, 0.0])
    assert evaluate._rewards(config, task, pairs, 0, None, HERE)[0] == pytest.approx(seen)  # the learned reward, not a rule on labels
    assert whole != pytest.approx(reward.load_scorer(config, HERE)(prompts, responses), abs=1e-6)  # what the user said is read, too


def test_dialogues_cannot_be_voted_on() -> None:
    with pytest.raises(ValueError, match=r"label.source = 'majority_vote': slot-filling dialogues have no final answers"):
        Params.model_validate(SETTINGS | {"label": {"source": "majority_vote"}})
    with pytest.raises(ValueError, match="prepare.dataset = 'mine.jsonl': .* one answer"):
        Params.model_validate(SETTINGS | {"prepare": {"dataset": "mine.jsonl"}})
