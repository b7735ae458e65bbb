"""Critics of other papers: quantiles of the return (DVPO), a pair (AsyPPO), frozen attention (SAO)."""

from dataclasses import replace

import pytest
import torch
from tiny import assert_same, trainer, weights

from vrpo.algorithms.asyppo import AsyPPO
from vrpo.critics.distributional import DistributionalCritic, quantile_huber, tail_losses
from vrpo.critics.ensemble import EnsembleHead
from vrpo.critics.pair import PairCritic, PairExperience, in_first_half
from vrpo.critics.sao import attention_modules
from vrpo.critics.value_model import ValueModel
from vrpo.data.batch import Rollout
from vrpo.errors import UserError

SETTINGS = {"distributional": {"quantiles": 12, "heads": 2}, "pair": {}, "sao": {}}
LOGGED = {
    "distributional": {"quantile", "tails", "shift", "shape", "curvature", "consistency", "spread"},
    "pair": {"mse_first", "mse_second", "disagreement"},
    "sao": {"mse"},
}
METHODS = [("ppo", "distributional"), ("ppo", "pair"), ("ppo", "sao"), ("asyppo", "pair")]
SHORT = {"iterations": 1, "rollouts": 48, "monte_carlo_prefixes": 0}


def run(tokenizer, problems, method: str, kind: str, **changes):
    critic = {"kind": kind, "settings": SETTINGS.get(kind)} | changes.pop("critic", {})
    return trainer(tokenizer, problems, method, changes={**SHORT, "critic": critic, **changes})


def rows_of(prompts: list[list[int]], padding: int = 0) -> Rollout:
    """Rows with these prompts, left-padded, and a response of two tokens each."""
    width = max(map(len, prompts)) + padding
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[False] * (width - len(prompt)) + [True] * len(prompt) for prompt in prompts])
    count = len(prompts)
    return Rollout(ids, mask, torch.full((count, 2), 5), torch.ones(count, 2, dtype=torch.bool), torch.zeros(count, 2))


@pytest.mark.parametrize(("method", "kind"), METHODS)
def test_it_trains_and_micro_batches_change_nothing(tokenizer, problems, method: str, kind: str) -> None:
    one, other = (run(tokenizer, problems, method, kind, micro_batch_size=size) for size in (64, 5))
    start, (_, row) = weights(one), one.run()
    other.run()
    assert {f"critic/{name}" for name in LOGGED[kind]} <= row.keys()
    assert {"critic/mse", "critic/kl"} & row.keys() == ({"critic/mse"} if kind == "sao" else set())
    assert row.get("policy/masked_advantages", 0.2) == pytest.approx(0.2, abs=0.02)
    assert ("policy/masked_advantages" in row) == (method == "asyppo")
    moved = {name.split(".")[0] for name, weight in weights(one).items() if not torch.equal(weight, start[name])}
    assert moved == {"policy", "critic"}
    assert_same(weights(one), weights(other), tolerance=1e-5)


@pytest.mark.parametrize("kind", ["distributional", "pair"])
def test_a_saved_value_model_is_read_with_its_head(tokenizer, problems, kind: str, tmp_path) -> None:
    critic = run(tokenizer, problems, "ppo", kind).critic
    for decoder in critic.head.decoder:
        torch.nn.init.normal_(decoder[-1].weight)
    critic.save_pretrained(tmp_path)
    loaded = ValueModel.from_pretrained(tmp_path)
    ids = torch.randint(3, 12, (2, 6))
    said, read = (model(ids, torch.ones_like(ids)) for model in (critic, loaded))
    assert isinstance(loaded.head, EnsembleHead) and said.outputs.shape[-1] == {"distributional": 24, "pair": 2}[kind]
    assert torch.allclose(said.values, read.values, atol=1e-6) and torch.allclose(said.outputs, read.outputs, atol=1e-6)
    assert torch.allclose(said.values, said.outputs.mean(-1))


def test_the_members_of_an_ensemble_say_the_same_at_first_and_part_as_they_learn() -> None:
    torch.manual_seed(0)
    head, hidden = EnsembleHead(8, 0, 1, outputs=3, members=2), torch.randn(4, 5, 8)
    assert torch.equal(head(hidden).outputs, torch.full((4, 5, 6), 0.5))
    optimiser = torch.optim.SGD(head.parameters(), lr=0.1)
    (head(hidden).values - torch.randn(4, 5)).square().mean().backward()
    optimiser.step()
    first, second = head(hidden).outputs.unflatten(-1, (2, 3)).unbind(-2)
    assert (first - second).abs().max() > 1e-3


def test_the_quantile_loss_by_hand() -> None:
    """Levels 1/4 and 3/4; each error is 0.5 on its cheap side, so that both cost 1/4 of Huber's 0.1 (0.5 - 0.05) / 0.1."""
    assert quantile_huber(torch.tensor([0.0, 1.0]), torch.tensor(0.5), 0.1).item() == pytest.approx(0.25 * 0.45)
    assert quantile_huber(torch.tensor([1.0, 0.0]), torch.tensor(0.5), 0.1).item() == pytest.approx(0.75 * 0.45)
    assert quantile_huber(torch.tensor([0.5, 0.5]), torch.tensor(0.6), 1.0).item() == pytest.approx(0.5 * 0.5 * 0.1**2)


def test_the_quantile_loss_finds_the_quantiles_of_a_distribution() -> None:
    """Of exponential returns, whose quantiles are -log(1 - level) and whose mean is 1: skewed, so that expectiles lie elsewhere."""
    levels = (torch.arange(8) + 0.5) / 8
    returns = -torch.log1p(-(torch.arange(4000) + 0.5) / 4000)
    found = torch.full((8,), 0.5, requires_grad=True)
    optimiser = torch.optim.Adam([found], lr=0.02)
    for _ in range(800):
        optimiser.zero_grad()
        quantile_huber(found.expand(4000, 8), returns, 0.05).mean().backward()
        optimiser.step()
    assert found.tolist() == pytest.approx((-torch.log1p(-levels)).tolist(), abs=0.05)


def test_the_mean_of_quantiles_is_that_of_right_and_wrong_answers() -> None:
    """At the default threshold; with QR-DQN's, 1, these are expectiles, and nine right answers in ten look like eight."""

    def mean(threshold: float) -> float:
        returns, found = torch.tensor([1.0] * 9 + [0.0]), torch.full((200,), 0.5, requires_grad=True)
        optimiser = torch.optim.Adam([found], lr=0.02)
        for _ in range(300):
            optimiser.zero_grad()
            quantile_huber(found.expand(10, 200), returns, threshold).mean().backward()
            optimiser.step()
        return found.mean().item()

    assert mean(DistributionalCritic.Settings().threshold) == pytest.approx(0.9, abs=0.02)
    assert mean(1.0) < 0.85


def test_tail_losses_by_hand() -> None:
    """Ten quantiles, tails of three: means 1 and 8, variance 2/3 of (0, 1, 2); straight tails bend nowhere."""
    straight = tail_losses(torch.arange(10.0), torch.tensor(5.0), 0.3)
    assert {name: term.item() for name, term in straight.items()} == pytest.approx(
        {"tails": 4.0**2 + 3.0**2, "shift": 0.5, "shape": 2 / 3, "curvature": 0.0}
    )
    assert tail_losses(torch.arange(10.0), torch.tensor(4.0), 0.3)["shift"].item() == 0.0
    normal = torch.special.ndtri((torch.arange(10) + 0.5) / 10)
    assert tail_losses(normal, torch.tensor(0.0), 0.3)["curvature"].item() == 0.0  # long tails on both sides cost nothing
    assert tail_losses(torch.arange(10.0).square(), torch.tensor(0.0), 0.3)["curvature"].item() == 2.0  # the lower tail is short
    assert tail_losses(-torch.arange(10.0).flip(0).square(), torch.tensor(0.0), 0.3)["curvature"].item() == 2.0  # the upper one is


def test_tails_by_weight(tokenizer, problems) -> None:
    """A weight of 0 leaves plain quantile regression: the terms are there and weigh nothing."""
    plain = run(tokenizer, problems, "ppo", "distributional", critic={"settings": SETTINGS["distributional"] | {"weight": 0.0}})
    row = plain.run()[-1]
    assert row["critic/quantile"] > 0 and all(
        row[f"critic/{name}"] == 0.0 for name in ("tails", "shift", "shape", "curvature", "consistency")
    )


def test_a_half_depends_on_the_prompt_alone() -> None:
    prompts = [[3 + i // 7, 3 + i % 7, 4, 9] for i in range(40)]
    halves = in_first_half(rows_of(prompts))
    assert halves[:6].tolist() == [False, False, False, False, False, True]  # the same in any process, for good
    assert 10 < halves.sum() < 30
    assert torch.equal(in_first_half(rows_of(prompts, padding=3)), halves)  # padding is no part of a prompt
    assert torch.equal(in_first_half(rows_of(prompts[::-1])), halves.flip(0))
    answered = replace(rows_of(prompts), responses=torch.randint(3, 9, (40, 2)))
    assert torch.equal(in_first_half(answered), halves)


def test_each_of_a_pair_learns_from_its_half_alone(policy) -> None:
    """The gradient of either decoder is that of its own rows, whatever the others' returns are."""
    from vrpo.config import CriticConfig

    critic = PairCritic(CriticConfig(kind="pair"), policy, seed=0)
    for decoder in critic.model.head.decoder:
        torch.nn.init.normal_(decoder[-1].weight)
    rollout = rows_of([[3 + i // 7, 3 + i % 7, 4, 9] for i in range(12)])
    first = in_first_half(rollout)
    assert 0 < first.sum() < 12

    def gradients(returns: torch.Tensor) -> list[torch.Tensor]:
        hidden = critic.model.states(rollout)
        fresh = PairExperience(**vars(rollout), rewards=returns, scored=torch.ones(12, dtype=torch.bool), returns=returns)
        batch = critic.annotate(fresh, {name: value.detach() for name, value in critic.read_states(fresh, hidden).items()})
        counts = {name: value.sum() for name, value in vars(batch).items() if value is not None and value.dtype == torch.bool}
        critic.model.zero_grad()
        sum(critic.loss(batch, hidden, counts)[0].values()).backward()
        return [torch.cat([p.grad.flatten() for p in decoder.parameters()]).clone() for decoder in critic.model.head.decoder]

    returns = torch.rand(12, 2, generator=torch.Generator().manual_seed(0))
    plain = gradients(returns)
    for half, mine, other in ((first, 0, 1), (~first, 1, 0)):
        changed = gradients(torch.where(half[:, None], returns + 1.0, returns))
        assert torch.equal(changed[other], plain[other])
        assert (changed[mine] - plain[mine]).abs().max() > 1e-3


def test_no_advantage_where_the_pair_agrees(tokenizer, problems) -> None:
    """The quietest fifth of a rollout batch's tokens has no gradient; equal values keep every token."""
    algorithm = run(tokenizer, problems, "asyppo", "pair").algorithm
    mask = torch.tensor([[True] * 5] * 2)
    apart = torch.tensor([[0.5, 0.1, 0.9, 0.8, 0.7], [0.6, 0.4, 0.2, 1.0, 1.1]])
    ids = torch.full((2, 5), 4)
    fresh = PairExperience(ids, torch.ones_like(mask), ids, mask, torch.zeros(2, 5), advantages=torch.ones(2, 5))
    members = torch.stack([torch.zeros(2, 5), apart], -1)
    batch = algorithm.critic.annotate(fresh, {"members": members, "values": members.mean(-1)})
    assert batch.informative.tolist() == [[True, False, True, True, True], [True, True, False, True, True]]
    assert algorithm.critic.metrics(batch, {})["disagreement"] == pytest.approx(apart.mean().item())
    logprobs = torch.zeros(2, 5, requires_grad=True)
    loss, metrics = algorithm.policy_loss(batch, logprobs, {"response_mask": torch.tensor(10)})
    loss.backward()
    assert torch.allclose(logprobs.grad, -0.1 * batch.informative.float()) and metrics["masked_advantages"] == pytest.approx(0.2)
    assert algorithm.critic.annotate(fresh, {"members": torch.ones(2, 5, 2), "values": torch.ones(2, 5)}).informative.all()


def test_frozen_attention_stays_while_the_rest_learns(tokenizer, problems) -> None:
    sao = run(tokenizer, problems, "ppo", "sao", critic={"epochs": 2, "learning_rate": 5e-2})
    start = weights(sao)
    sao.run()
    moved = {name for name, weight in weights(sao).items() if name.startswith("critic.") and not torch.equal(weight, start[name])}
    assert len(attention_modules(sao.critic.backbone)) == 2
    assert {name for name in start if name.startswith("critic.") and "self_attn" in name}.isdisjoint(moved)
    assert {name for name in start if name.startswith("critic.") and "self_attn" not in name} == moved
    assert any(
        "self_attn" in name for name, weight in weights(sao).items() if name.startswith("policy.") and not torch.equal(weight, start[name])
    )


def test_what_does_not_go_together_is_named(tokenizer, problems) -> None:
    with pytest.raises(UserError, match="would freeze the policy's attention"):
        run(tokenizer, problems, "ppo", "sao", critic={"backbone": "shared"})
    with pytest.raises(UserError, match="asyppo needs the disagreement of two critics; use pair"):
        run(tokenizer, problems, "asyppo", "plain", critic={"settings": None})
    with pytest.raises(UserError, match=r"train\.critic\.settings\.quantiles"):
        run(tokenizer, problems, "ppo", "distributional", critic={"settings": {"quantiles": 2}})
    assert AsyPPO.own_critic is PairCritic
