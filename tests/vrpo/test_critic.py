"""The value model: depth, determinism, states, saving."""

import pytest
import torch

from vrpo.critics.value_model import ValueHead, ValueModel
from vrpo.data.batch import Rollout
from vrpo.models.states import response_states


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_head_is_deterministic_without_noise_and_samples_with_it(depth: int) -> None:
    torch.manual_seed(0)
    head = ValueHead(8, depth, 4)
    torch.nn.init.normal_(head.decoder[-1].weight)
    hidden = torch.randn(3, 5, 8)
    assert torch.equal(head(hidden).values, head(hidden).values)
    noisy = head(hidden, torch.randn(3, 5, depth, 4))
    assert torch.equal(noisy.values, head(hidden).values) == (depth == 0)
    assert torch.equal(head(hidden, torch.zeros(3, 5, depth, 4)).values, head(hidden).values)
    assert (noisy.kl > 0).all() == (depth > 0)
    assert (noisy.kl_per_dimension is None) == (depth == 0)
    if depth == 1:
        assert torch.allclose(noisy.kl_per_dimension.sum(-1), noisy.kl, atol=1e-5)
    if depth == 2:
        assert (noisy.kl > noisy.kl_per_dimension.sum(-1)).all()  # the second layer pays too


def test_states_of_a_response_start_at_the_last_prompt_token() -> None:
    hidden = torch.arange(7).float().view(1, 7, 1)  # prompt of 4, response of 3
    assert response_states(hidden, 3).flatten().tolist() == [3.0, 4.0, 5.0]


def test_values_do_not_depend_on_left_padding_or_on_later_tokens(policy) -> None:
    critic = ValueModel.from_policy(policy, shared=False, depth=1, latent_size=4, seed=0).eval()
    torch.nn.init.normal_(critic.head.decoder[-1].weight)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    padded = torch.tensor([[0, 0, 5, 6, 7, 8, 3]])
    plain = critic(ids, torch.ones_like(ids, dtype=torch.bool)).values
    shifted = critic(padded, torch.tensor([[False] * 2 + [True] * 5])).values
    assert torch.allclose(plain[0, :4], shifted[0, 2:6], atol=1e-5)


def test_separate_backbone_is_a_copy_and_shared_one_is_not(policy) -> None:
    assert ValueModel.from_policy(policy, shared=True, depth=0, latent_size=1, seed=0).backbone is policy.base_model
    separate = ValueModel.from_policy(policy, shared=False, depth=0, latent_size=1, seed=0).backbone
    assert separate is not policy.base_model
    assert torch.equal(separate.embed_tokens.weight, policy.base_model.embed_tokens.weight)
    assert separate.embed_tokens.weight.data_ptr() != policy.base_model.embed_tokens.weight.data_ptr()


def test_saved_value_model_gives_the_same_values(policy, tmp_path) -> None:
    critic = ValueModel.from_policy(policy, shared=False, depth=2, latent_size=4, seed=3).eval()
    torch.nn.init.normal_(critic.head.decoder[-1].weight)
    critic.save_pretrained(tmp_path / "value_model")
    loaded = ValueModel.from_pretrained(tmp_path / "value_model")
    ids = torch.randint(3, 12, (2, 6))
    assert torch.allclose(loaded(ids, torch.ones_like(ids)).values, critic(ids, torch.ones_like(ids)).values, atol=1e-6)
    assert not list((tmp_path / "value_model").rglob("*.bin"))
    with pytest.raises(FileNotFoundError, match="value_head.json"):
        ValueModel.from_pretrained(tmp_path)


def test_a_loaded_value_model_scores_texts(policy, tokenizer, problems, tmp_path) -> None:
    critic = ValueModel.from_policy(policy, shared=False, depth=1, latent_size=4, seed=3).eval()
    torch.nn.init.normal_(critic.head.decoder[-1].weight)
    critic.save_pretrained(tmp_path / "value_model")
    texts = [problems[0]["prompt"] + "7", problems[1]["prompt"]]
    scores = ValueModel.from_pretrained(tmp_path / "value_model").score(tokenizer, texts)
    for text, values in zip(texts, scores, strict=True):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert len(values) == len(ids)
        prefix = torch.tensor([ids[:3]])  # a prefix is worth the same, whatever follows it
        assert values[2] == pytest.approx(critic(prefix, torch.ones_like(prefix)).values[0, -1].item(), abs=1e-5)


def test_surprisal_inputs_by_hand(policy) -> None:
    """Against one sequence alone, token by token, with padding on both sides in the batch."""
    from vrpo.critics.surprisal import surprisal_inputs

    prompt, response = [5, 6, 7], [8, 9, 3, 4]
    ids = torch.tensor([[0, 0, *prompt, *response, 0]])
    attended = torch.tensor([[False] * 2 + [True] * 7 + [False]])
    counted = torch.tensor([[False] * 5 + [True] * 4 + [False]])
    found = surprisal_inputs(policy, ids, attended, counted)[0, 4:9]  # from the last prompt token to the last response token
    logprobs = torch.log_softmax(policy(torch.tensor([prompt + response])).logits[0].double(), -1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)[2:]
    surprisal = -logprobs[range(2, 6), response]
    for step in range(5):
        total, own_entropy = surprisal[:step].sum(), entropy[:step].sum()
        largest = surprisal[:step].max() if step else torch.tensor(0.0)
        expected = [total.log1p(), largest.log1p(), (total - own_entropy).asinh(), entropy[step]]
        assert found[step].tolist() == pytest.approx([value.item() for value in expected], abs=1e-5)


def test_a_value_model_with_surprisal_inputs_is_saved_whole(policy, tokenizer, problems, tmp_path) -> None:
    critic = ValueModel.from_policy(policy, shared=False, depth=1, latent_size=4, seed=3, surprisal_inputs=True).eval()
    torch.nn.init.normal_(critic.head.decoder[-1].weight)
    with torch.no_grad():
        next(policy.parameters()).add_(1.0)  # the reader is the policy as it was
    critic.save_pretrained(tmp_path)
    loaded = ValueModel.from_pretrained(tmp_path)
    text, prompt = problems[0]["prompt"] + "+12-3", len(problems[0]["prompt"])
    scores = [model.score(tokenizer, [text], [prompt])[0] for model in (critic, loaded)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    rollout = Rollout(
        torch.tensor([ids[:prompt]]),
        torch.ones(1, prompt, dtype=torch.bool),
        torch.tensor([ids[prompt:]]),
        torch.ones(1, len(ids) - prompt, dtype=torch.bool),
        torch.zeros(1, len(ids) - prompt),
    )
    assert loaded.read(rollout)[0].tolist() == pytest.approx(scores[0][prompt - 1 : -1], abs=1e-5)
    assert critic.score(tokenizer, [text])[0] != pytest.approx(scores[0], abs=1e-3)  # prompt tokens counted as the response's
