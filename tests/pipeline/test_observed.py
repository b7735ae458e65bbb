"""The observed reward: what acts on it in training, what the measurements make of it, and what is claimed are one and the same."""

from types import SimpleNamespace

import pytest
import torch

from pipeline.files import read_json, write_jsonl
from pipeline.params import Params
from pipeline.stages import evaluate, label, observed, reward
from pipeline.workspace import HERE
from vrpo.critics.value_model import ValueModel
from vrpo.data.text import decode, encode
from vrpo.models.forward import policy_forward
from vrpo.models.loading import new_llama, save_model
from vrpo.rewards.corrections import CorrectedReward
from vrpo.rewards.experience import at_last_token
from vrpo.rollout.engines.transformers import generate
from vrpo.rollout.samples import PolicySamples
from vrpo.tasks.dialogue.task import DialogueTask
from vrpo.tasks.math.chain import ChainTask, generate_problems, new_tokenizer

COUNT = 400
ROWS = [
    {"id": str(i), "question": row["question"], "answer": row["answer"]} for i, row in enumerate(generate_problems(COUNT, 0, 1, 3, set()))
]
FLIP = {"kind": "flip", "false_positive": 0.35, "false_negative": 0.35}
INVERTED = {"kind": "prompt_flip", "rate": 0.1}
TAILS = {"kind": "heavy_tail", "scale": 0.05}


@pytest.fixture
def labels(tmp_path, monkeypatch):
    """A folder with clean labels of the test problems, but for the last five, which have none."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "data/labels/test.jsonl", [{"id": row["id"], "label": row["answer"]} for row in ROWS[:-5]])


def right_and_wrong(task: ChainTask) -> PolicySamples:
    """Of each problem two responses, one right."""
    texts = [[task.demonstration(row), f"+0{(int(row['answer']) + 1) % 10}"] for row in ROWS]
    return PolicySamples(ROWS, texts, [], [1.0, 0.0] * COUNT)


def call(given, texts: list[str], step: int = 0) -> list[float]:
    rows = [row for row in ROWS for _ in range(len(texts) // COUNT)]
    columns = {name: [row[key] for row in rows] for name, key in (("id", "id"), ("answer", "answer"), ("label", "answer"))}
    return given(["?"] * len(texts), texts, **columns, step=step, samples=[0, 1] * (len(texts) // 2))


@pytest.mark.parametrize("kind", ["rule", "model", "implicit"])
def test_noise_acts_on_every_kind_of_reward(monkeypatch, kind: str) -> None:
    task = ChainTask(3)
    monkeypatch.setattr(reward, "learned_reward", lambda _, task, *__: lambda prompts, texts, *, answer, **_: task.verify(texts, answer))
    texts = [text for group in right_and_wrong(task).texts for text in group]
    clean = call(observed.observed_reward(Params(reward={"kind": kind}), task, 0, HERE), texts)
    assert clean == [1.0, 0.0] * COUNT
    for noise, share in (
        ({"kind": "flip", "false_positive": 0.35}, 0.175),
        ({"kind": "flip", "false_negative": 0.35}, 0.175),
        ({"kind": "prompt_flip", "rate": 0.2}, 0.2),
        ({"kind": "heavy_tail", "scale": 0.1}, 1.0),
    ):
        noisy = observed.observed_reward(Params(reward={"kind": kind}, label={"source": "clean"}, noise=[noise]), task, 0, HERE)
        changed = [a != b for a, b in zip(call(noisy, texts), clean, strict=True)]
        assert sum(changed) / len(changed) == pytest.approx(share, abs=0.05)
        assert call(noisy, texts) != call(noisy, texts, step=1) or noise["kind"] == "prompt_flip"


def test_what_is_claimed_is_what_acts(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for split in ("train", "test"):
        write_jsonl(tmp_path / f"data/prepared/{split}.jsonl", ROWS)
    params = Params(label={"source": "clean", "wrong_reference_rate": 0.2}, noise=[INVERTED, FLIP, TAILS], prepare={"max_length": 3})
    label.run(params, None)
    noise = read_json(tmp_path / "data/labels/noise.json")
    channels = [channel.model_dump() | {"description": channel.describe()} for channel in params.noise]
    assert [channel["kind"] for channel in channels] == ["prompt_flip", "flip", "heavy_tail"]
    assert observed.acting_noise(params, noise) == noise | {"reward": "rule", "channels": channels}
    learned = observed.acting_noise(params.model_copy(update={"reward": Params(reward={"kind": "model"}).reward}), noise)
    assert learned["channels"] == channels and learned["label_error"] == 0.2
    assert not {"label_accuracy", "wrong_reference_rate"} & learned.keys()  # learned rewards read no labels


@pytest.mark.parametrize("kind", ["rule", "model"])
def test_the_proxy_gap_counts_flips_and_tails(labels, monkeypatch, kind: str) -> None:
    task = ChainTask(3)
    monkeypatch.setattr(reward, "learned_reward", lambda _, task, *__: lambda prompts, texts, *, answer, **_: task.verify(texts, answer))
    drawn = right_and_wrong(task)
    params = Params(label={"source": "clean"}, noise=[FLIP | {"false_negative": 0.0}, TAILS], reward={"kind": kind})
    seen, clean = evaluate._rewards(params, task, drawn, 0, None, HERE)
    assert clean == drawn.clean
    assert seen[-10:] == [None] * 10 if kind == "rule" else None not in seen  # without a label training would not have seen them
    known = [(o, c) for o, c in zip(seen, clean, strict=True) if o is not None]
    assert sum(o - c for o, c in known) / len(known) == pytest.approx(0.175, abs=0.06)  # wrong ones that were rewarded
    assert evaluate._rewards(params, task, drawn, 1, None, HERE)[0] != seen  # every seed has its own noise
    assert len({round(o - c, 6) for o, c in known}) > COUNT  # tails differ from sample to sample


def test_no_gap_is_measured_where_test_problems_have_no_noisy_labels(labels) -> None:
    """Labels of the data set come with training rows alone: on test problems a gap of 0 would be that of clean answers."""
    task = ChainTask(3)
    seen, clean = evaluate._rewards(
        Params(label={"source": "dataset"}, prepare={"dataset": "own.jsonl"}), task, right_and_wrong(task), 0, None, HERE
    )
    assert set(seen) == {None} and clean == [1.0, 0.0] * COUNT


def test_the_proxy_gap_and_values_are_of_the_corrected_reward(labels, capsys) -> None:
    task, drawn = ChainTask(3), right_and_wrong(ChainTask(3))
    params = Params(label={"source": "clean"}, noise=[INVERTED, FLIP], reward={"correction": "backward"})
    corrected = observed.corrected_reward(params, observed.observed_reward(params, task, 0, HERE), None, None, task, [], 0)
    assert isinstance(corrected, CorrectedReward)
    assert (corrected.rates.false_positive, corrected.rates.false_negative) == pytest.approx((0.38, 0.38))  # 0.9 * 0.35 + 0.1 * 0.65
    assert "0.380 and 0.380" in capsys.readouterr().out
    seen, clean = evaluate._rewards(params, task, drawn, 0, vars(corrected.rates), HERE)
    assert {round(value, 3) for value in seen if value is not None} == {round(-0.38 / 0.24, 3), round(0.62 / 0.24, 3)}
    right = [o for o, c in zip(seen, clean, strict=True) if c == 1.0 and o is not None]
    assert sum(right) / len(right) == pytest.approx(1.0, abs=0.35)


def test_explained_variance_of_observed_returns_is_that_of_noisy_ones(labels) -> None:
    """Values that are the clean scores themselves: perfect for clean returns, worse than a constant for flipped ones."""
    tokenizer = new_tokenizer()
    policy = new_llama(tokenizer, hidden_size=16, layers=1, heads=2, seed=0)
    options = {"max_new_tokens": 4, "temperature": 1.0, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    rollout = generate(policy, encode(tokenizer, ["3+4.:"] * COUNT), seed=0, **options)
    clean = [float(i % 2) for i in range(COUNT)]
    flipped = [1 - value if i % 5 == 0 else value for i, value in enumerate(clean)]
    critic = SimpleNamespace(read=lambda rollout, batch_size: torch.tensor(clean)[:, None] * rollout.response_mask)
    drawn = PolicySamples(ROWS, [[text] for text in decode(tokenizer, rollout)], [rollout[:150], rollout[150:]], clean)
    found = evaluate._fit(Params(), critic, drawn, [*flipped[:-1], None], clean, HERE)
    assert found["ev_clean"] == pytest.approx(1.0) and found["ev_observed"] == pytest.approx(1 - 0.2 / 0.25, abs=0.05)
    assert ValueModel.from_policy(policy, shared=False, depth=0, latent_size=1, seed=0).read(rollout).shape == rollout.responses.shape


def test_values_that_foresee_kl_penalties_are_not_judged_by_returns_without_them(labels) -> None:
    """As in the training log: with train.kl_in = reward, what a critic learns to predict has the penalties in it."""
    tokenizer = new_tokenizer()
    policy, cold = (new_llama(tokenizer, hidden_size=16, layers=1, heads=2, seed=seed) for seed in (0, 1))
    save_model(cold, tokenizer, HERE.sft)
    prompts, scores = [f"{i % 10}+{i % 7}.:" for i in range(60)], [float(i % 2) for i in range(60)]
    options = {"max_new_tokens": 4, "temperature": 0.7, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    rollout = generate(policy, encode(tokenizer, prompts), seed=0, **options)
    with torch.no_grad():
        divergence = (rollout.logprobs - policy_forward(cold, rollout, 0.7).logprobs) * rollout.response_mask
    assert divergence.abs().max() > 0.1
    earned = at_last_token(torch.tensor(scores), rollout.response_mask) - 2.0 * divergence
    returns = earned.flip(1).cumsum(1).flip(1) * rollout.response_mask
    drawn = PolicySamples([], [], [rollout[:25], rollout[25:]], scores)
    train = {"kl_in": "reward", "kl_coefficient": 2.0, "micro_batch_size": 7}
    params = Params(train=train, generation={"temperature": 0.7})
    found = evaluate._fit(params, SimpleNamespace(read=lambda *_: returns), drawn, scores, [1.0 - score for score in scores], HERE)
    assert found["ev_observed"] == pytest.approx(1.0, abs=1e-4) and found["ev_clean"] < 0.99
    in_loss = params.model_copy(update={"train": params.train.model_copy(update={"kl_in": "loss"})})
    assert evaluate._fit(in_loss, SimpleNamespace(read=lambda *_: returns), drawn, scores, scores, HERE)["ev_observed"] < 0.99


def test_rewards_of_turns_are_measured_as_rewards_of_turns(labels) -> None:
    task = DialogueTask()
    problems = task.generate(3, 0, set())
    write_jsonl(observed_file := HERE.labels / "test.jsonl", [{"id": str(i), "label": row["answer"]} for i, row in enumerate(problems)])
    assert observed_file.exists()
    rows = [row | {"id": str(i)} for i, row in enumerate(problems)]
    texts = [[task.canonical_response(row["answer"])] for row in rows]
    params = Params(domain="dialogue", label={"source": "clean"}, reward={"per_turn": True})
    seen, clean = evaluate._rewards(params, task, PolicySamples(rows, texts, [], [1.0] * 3), 0, None, HERE)
    assert seen == clean and [sum(turns) for turns in seen] == pytest.approx([1.0] * 3) and max(map(len, seen)) > 1
