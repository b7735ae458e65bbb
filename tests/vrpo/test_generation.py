"""Decoding: right log-probabilities, right masks, independent of batch size, prompt padding and neighbours."""

import torch

from vrpo.config import GenerationConfig
from vrpo.forward import policy_forward
from vrpo.generation import decode, encode, generate, generation_settings

SETTINGS = {"max_new_tokens": 12, "temperature": 0.7}


def sample(policy, tokenizer, prompts, seed=0, batch_size=512):
    settings = generation_settings(policy, tokenizer, GenerationConfig(**SETTINGS, batch_size=batch_size))
    return generate(policy, prompts, seed=seed, **settings)


def test_logprobs_equal_a_full_forward_pass(policy, tokenizer, problems) -> None:
    prompts = encode(tokenizer, [row["prompt"] for row in problems])
    prompts = [prompt[i % 5 :] for i, prompt in enumerate(prompts)]  # ragged, so that left padding matters
    rollout = sample(policy, tokenizer, prompts)
    with torch.no_grad():
        logprobs = policy_forward(policy, rollout, SETTINGS["temperature"]).logprobs
    assert torch.allclose(rollout.logprobs[rollout.response_mask], logprobs[rollout.response_mask], atol=1e-4)
    assert (rollout.logprobs[~rollout.response_mask] == 0).all()


def test_samples_do_not_depend_on_the_generation_batch(policy, tokenizer, problems) -> None:
    prompts = encode(tokenizer, [row["prompt"] for row in problems])
    whole, parts = sample(policy, tokenizer, prompts), sample(policy, tokenizer, prompts, batch_size=7)
    assert torch.equal(whole.responses, parts.responses)
    assert torch.equal(whole.response_mask, parts.response_mask)
    assert not torch.equal(whole.responses, sample(policy, tokenizer, prompts, seed=1).responses[:, : whole.responses.shape[1]])


def test_mask_ends_with_the_first_eos_and_nothing_follows(policy, tokenizer, problems) -> None:
    rollout = sample(policy, tokenizer, encode(tokenizer, [row["prompt"] for row in problems]))
    ended = 0
    for ids, mask in zip(rollout.responses.tolist(), rollout.response_mask.tolist(), strict=True):
        length = sum(mask)
        assert mask == [True] * length + [False] * (len(mask) - length)
        assert tokenizer.eos_token_id not in ids[: length - 1]
        ended += ids[length - 1] == tokenizer.eos_token_id
        assert ids[length - 1] == tokenizer.eos_token_id or length == SETTINGS["max_new_tokens"]
    assert 0 < ended < len(rollout)  # both ways of stopping were seen


def test_sampling_follows_the_distribution(policy, tokenizer, problems) -> None:
    prompt = encode(tokenizer, [problems[0]["prompt"]])[0]
    first = sample(policy, tokenizer, [prompt] * 4000).responses[:, 0]
    with torch.no_grad():
        expected = torch.softmax(policy(torch.tensor([prompt])).logits[0, -1] / SETTINGS["temperature"], -1)
    observed = torch.bincount(first, minlength=len(expected)) / 4000
    assert (observed - expected).abs().max() < 0.03  # 4 standard errors of a share of one half


def test_decode_leaves_out_padding_and_eos(policy, tokenizer, problems) -> None:
    rollout = sample(policy, tokenizer, encode(tokenizer, [row["prompt"] for row in problems]))
    for text, length in zip(decode(tokenizer, rollout), rollout.lengths.tolist(), strict=True):
        assert "<" not in text
        assert len(text) <= length
