"""Supervised fitting: what is learned, what is not, and how it fails."""

import pytest
import torch
from transformers import Trainer

from vrpo.errors import UserError
from vrpo.models.loading import new_llama
from vrpo.models.supervised import IGNORED, encode_pairs, fit_demonstrations, fit_preferences
from vrpo.tasks.math.chain import ChainTask, generate_problems, work_through

SETTINGS = {"steps": 3, "batch_size": 4, "learning_rate": 1e-3, "seed": 0, "stage": "sft"}


@pytest.fixture
def model(tokenizer):
    return new_llama(tokenizer, hidden_size=32, layers=1, heads=2, seed=0)


@pytest.fixture(scope="module")
def pairs() -> list[dict[str, str]]:
    task = ChainTask(max_length=3)
    rows = generate_problems(64, 0, 1, 3, set())
    return [{"prompt": task.prompt(row["question"]), "completion": work_through(row["question"])} for row in rows]


@pytest.fixture
def batches(monkeypatch) -> list[dict]:
    """The batches that training sees, in their order."""
    seen: list[dict] = []
    original = Trainer.training_step

    def spy(self, model, inputs, *args, **kwargs):
        seen.append({key: value.clone() for key, value in inputs.items()})
        return original(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", spy)
    return seen


def texts(batch: dict, tokenizer) -> list[str]:
    return [tokenizer.decode(row) for row in batch["input_ids"]]


def test_labels_are_the_completion_and_one_eos(model, tokenizer, pairs, batches):
    fit_demonstrations(model, tokenizer, pairs[:4], **SETTINGS | {"steps": 1}, shuffle=False)
    [batch] = batches
    for pair, ids, labels, mask in zip(pairs, batch["input_ids"], batch["labels"], batch["attention_mask"], strict=False):
        assert tokenizer.decode(labels[labels != IGNORED]) == pair["completion"] + tokenizer.eos_token
        assert (labels == tokenizer.eos_token_id).sum() == 1
        assert tokenizer.decode(ids[mask.bool()]) == pair["prompt"] + pair["completion"] + tokenizer.eos_token
        assert (labels[: len(pair["prompt"])] == IGNORED).all()
        assert (labels[mask == 0] == IGNORED).all()


def test_eos_already_there_is_not_doubled(tokenizer):
    eos = tokenizer.eos_token
    [(_, once), (_, added)] = encode_pairs(tokenizer, ["1+1.:"] * 2, ["+12" + eos, "+12"])
    assert once == added
    assert once.count(tokenizer.eos_token_id) == 1


def test_prompt_tokens_are_those_of_generation(tokenizer, pairs):
    from vrpo.data.text import encode

    prompts = [pair["prompt"] for pair in pairs]
    assert [prompt for prompt, _ in encode_pairs(tokenizer, prompts, prompts)] == encode(tokenizer, prompts)


def test_first_loss_is_the_mean_over_completion_tokens(model, tokenizer, pairs):
    total, count = 0.0, 0
    for pair in pairs[:4]:  # one by one, without padding
        [(prompt, completion)] = encode_pairs(tokenizer, [pair["prompt"]], [pair["completion"]])
        with torch.no_grad():
            logprobs = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        total -= logprobs[torch.arange(len(completion)), completion].sum().item()
        count += len(completion)
    losses = fit_demonstrations(model, tokenizer, pairs[:4], **SETTINGS | {"steps": 1}, shuffle=False)
    assert losses == [pytest.approx(total / count, rel=1e-4)]


def test_learns(model, tokenizer, pairs):
    losses = fit_demonstrations(model, tokenizer, pairs, **SETTINGS | {"steps": 60, "batch_size": 16, "learning_rate": 1e-2})
    assert len(losses) == 60
    assert losses[-1] < 0.6 * losses[0]


def test_seed_fixes_the_result(tokenizer, pairs):
    def weights(seed: int) -> torch.Tensor:
        model = new_llama(tokenizer, hidden_size=32, layers=1, heads=2, seed=0)
        fit_demonstrations(model, tokenizer, pairs, **SETTINGS | {"seed": seed})
        return model.get_input_embeddings().weight.detach()

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_order_is_kept_without_shuffling(model, tokenizer, pairs, batches):
    fit_demonstrations(model, tokenizer, pairs, **SETTINGS, shuffle=False)
    seen = [text.replace(tokenizer.pad_token, "") for batch in batches for text in texts(batch, tokenizer)]
    assert seen == [pair["prompt"] + pair["completion"] + tokenizer.eos_token for pair in pairs[:12]]


def test_more_steps_than_data(model, tokenizer, pairs):
    assert len(fit_demonstrations(model, tokenizer, pairs[:6], **SETTINGS | {"steps": 5})) == 5


def test_model_is_handed_back_as_it_came(model, tokenizer, pairs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    forward, use_cache = model.forward.__func__, model.config.use_cache
    fit_demonstrations(model, tokenizer, pairs, **SETTINGS)
    assert model.forward.__func__ is forward
    assert model.config.use_cache is use_cache
    assert not model.training
    assert list(tmp_path.iterdir()) == []


def test_nan_names_stage_and_cause(model, tokenizer, pairs):
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(UserError, match=r"sft: the model's weight model.norm.weight holds NaN"):
        fit_demonstrations(model, tokenizer, pairs, **SETTINGS)


def test_diverging_run_stops(model, tokenizer, pairs):
    with pytest.raises(UserError, match=r"base\.learning_rate = 1e\+38"):
        fit_demonstrations(model, tokenizer, pairs, **SETTINGS | {"steps": 20, "learning_rate": 1e38, "stage": "base"})


def test_preferences_put_chosen_first_and_learn(tokenizer, pairs, batches, tmp_path):
    from vrpo.models.loading import save_model
    from vrpo.rewards.model import new_reward_model

    save_model(new_llama(tokenizer, hidden_size=32, layers=1, heads=2, seed=0), tokenizer, tmp_path / "sft")
    model, tokenizer = new_reward_model(tmp_path / "sft", seed=0)
    preferences = [{"prompt": pair["prompt"], "chosen": pair["completion"], "rejected": "+00"} for pair in pairs]
    losses = fit_preferences(
        model, tokenizer, preferences, **SETTINGS | {"steps": 30, "batch_size": 8, "learning_rate": 1e-2, "stage": "reward"}
    )
    assert losses[0] == pytest.approx(0.693, abs=0.2)
    assert losses[-1] < 0.3
    rows = [text.replace(tokenizer.pad_token, "") for text in texts(batches[0], tokenizer)]
    assert all(text.endswith(tokenizer.eos_token) and text.count(tokenizer.eos_token) == 1 for text in rows)
    assert all(text.endswith(":+00" + tokenizer.eos_token) for text in rows[8:])


def test_trl_metrics_nobody_reads_are_not_computed(model, tokenizer, pairs, monkeypatch):
    """TRL's own loss adds entropy and token accuracy to every step."""
    from trl import SFTTrainer

    monkeypatch.setattr(SFTTrainer, "compute_loss", lambda *args, **kwargs: pytest.fail("TRL's loss was used"))
    assert len(fit_demonstrations(model, tokenizer, pairs, **SETTINGS)) == SETTINGS["steps"]
