"""GRPO, Dr.GRPO and RLOO against TRL's own trainers: the same responses in, the same advantages and the same loss out."""

import sys

import pytest
import torch
from tiny import count_digits, trainer

from vrpo.models.forward import policy_forward
from vrpo.models.loading import save_model
from vrpo.training.objective import policy_terms

CASES = {
    "grpo": ("GRPO", {"loss_type": "dapo", "beta": 0.0}),
    "grpo with KL": ("GRPO", {"loss_type": "dapo", "beta": 0.2, "use_bias_correction_kl": False}),
    "dr_grpo": ("GRPO", {"loss_type": "dr_grpo", "scale_rewards": "none", "beta": 0.0}),
    "rloo": ("RLOO", {"beta": 0.0}),
}


@pytest.fixture
def batch(tokenizer, problems, monkeypatch):
    """TRL's trainer for a case, its inputs for 16 given responses, and our run with the experience of the same ones."""
    import trl
    from datasets import Dataset

    def make(case: str, folder):
        kind, options = CASES[case]
        changes = {"kl_coefficient": options["beta"]}
        ours = trainer(tokenizer, problems, case.split()[0], changes=changes)
        rows = [row for row in problems[:4] for _ in range(4)]
        experience, _ = ours.collect(rows, [0] * 16, iteration=1)
        settings = {
            "per_device_train_batch_size": 16,
            "num_generations": 4,
            "max_completion_length": ours.generation.max_new_tokens,
            "temperature": 1.0,
            "use_cpu": True,
            "report_to": [],
            "save_strategy": "no",
            "bf16": False,
            "gradient_checkpointing": False,
            "output_dir": str(folder),
            "model_init_kwargs": {"dtype": "float32"},
        }
        save_model(ours.policy, tokenizer, folder / "model")
        theirs = getattr(trl, f"{kind}Trainer")(
            model=str(folder / "model"),  # TRL loads its reference from there, too
            reward_funcs=lambda prompts, completions, **columns: count_digits(prompts, completions),
            args=getattr(trl, f"{kind}Config")(**settings, **options),
            train_dataset=Dataset.from_list(problems),
            processing_class=tokenizer,
        )
        responses = [ids[mask].tolist() for ids, mask in zip(experience.responses, experience.response_mask, strict=True)]
        given = (responses, None) if kind == "GRPO" else responses
        monkeypatch.setattr(theirs, "_generate_single_turn", lambda *_, **__: given)
        monkeypatch.setattr(theirs, "current_gradient_accumulation_steps", 1, raising=False)
        theirs.model.train()
        return ours, experience, theirs, theirs._generate_and_score_completions(rows)

    return make


@pytest.mark.parametrize("case", CASES)
def test_advantages_loss_and_gradient_equal_trls(batch, tmp_path, case: str) -> None:
    ours, experience, theirs, inputs = batch(case, tmp_path)
    assert torch.equal(inputs["completion_ids"][experience.response_mask], experience.responses[experience.response_mask])
    advantages = experience.advantages[:, 0]
    assert advantages.abs().max() > 0.1
    # TRL adds 1e-4 to the standard deviation, we 1e-6, so that GRPO's advantages do not depend on the reward's scale.
    assert torch.allclose(inputs["advantages"], advantages, atol=1e-6 if case in ("dr_grpo", "rloo") else 1e-3)

    torch.manual_seed(0)
    shifts = [0.05 * torch.randn_like(parameter) for parameter in ours.policy.parameters()]
    with torch.no_grad():
        for model in (ours.policy, theirs.model):
            for parameter, shift in zip(model.parameters(), shifts, strict=True):
                parameter.add_(shift)
    if case == "rloo":
        inputs["old_logps"] = experience.logprobs.sum(1)
    else:
        inputs["old_per_token_logps"] = experience.logprobs
    inputs["advantages"] = advantages
    loss = theirs._compute_loss(theirs.model, inputs)
    loss.backward()

    mask = experience.response_mask
    counts = {"response_mask": mask.sum(), "responses": mask.any(1).sum(), "max_new_tokens": ours.generation.max_new_tokens}
    terms, metrics, _ = policy_terms(ours.policy, ours.algorithm, experience, 1.0, counts)
    sum(terms.values()).backward()
    assert metrics["policy/clip_fraction"] > 0
    assert sum(terms.values()).item() == pytest.approx(loss.item(), abs=1e-6)
    for parameter, other in zip(ours.policy.parameters(), theirs.model.parameters(), strict=True):
        assert (parameter.grad - other.grad).abs().max() < 1e-6


def test_logprobs_of_generation_equal_those_of_a_forward_pass(tokenizer, problems) -> None:
    run = trainer(tokenizer, problems, "grpo")
    experience, _ = run.collect(problems[:16], [0] * 16, iteration=1)
    with torch.no_grad():
        again = policy_forward(run.policy, experience, run.generation.temperature).logprobs
    assert torch.allclose(experience.logprobs, again * experience.response_mask, atol=1e-5)


@pytest.fixture(autouse=True)
def no_trackers():
    """TRL imports a tracker that is installed; it must not start one."""
    yield
    assert "wandb" not in sys.modules or sys.modules["wandb"].run is None
