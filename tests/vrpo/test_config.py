"""Parameters: every mistake is named; the profile wins where it speaks."""

from pathlib import Path

import pytest
import yaml

from vrpo.config import Params, UserError, load_params, resolve_params

ROOT = Path(__file__).parents[2]


def test_committed_params_are_the_defaults() -> None:
    """One truth: what params.yaml sets for the default profile is what the library does by itself."""
    assert load_params(ROOT / "params.yaml") == resolve_params({})


@pytest.mark.parametrize("profile", yaml.safe_load((ROOT / "params.yaml").read_text())["profiles"])
def test_every_profile_is_valid_and_wins(profile: str) -> None:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["profile"] = profile
    params = resolve_params(raw)
    for section, values in raw["profiles"][profile].items():
        resolved = getattr(params, section)
        for key, value in values.items() if isinstance(values, dict) else []:
            if not isinstance(value, dict):
                assert getattr(resolved, key) == value


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"train": {"learning_rte": 1}}, r"train.learning_rte: unknown key.*did you mean 'learning_rate'"),
        ({"train": {"critic": {"dept": 1}}}, r"train.critic.dept: unknown key.*did you mean 'depth'"),
        ({"train": {"lora": {"rnk": 4}}}, r"train.lora.rnk: unknown key.*did you mean 'rank'"),
        ({"train": {"clip_range": 0}}, r"train.clip_range = 0: .*greater than 0"),
        ({"train": {"critic": {"activation_ratio": 1.2}}}, r"activation_ratio = 1.2"),
        ({"methods": ["dpo"]}, r"methods.0 = 'dpo': .*'ppo', 'grpo', .* or 'vrpo'"),
        ({"seeds": []}, r"seeds = \[\]"),
        ({"train": {"rollouts": 96}}, r"rollouts=96 leaves -1920 after critic.warmup_rollouts=2016"),
        ({"train": {"rollouts": 4350}}, r"rollouts=4350 is no multiple of iterations=12 x group_size=8.*use 4320"),
        ({"train": {"critic": {"warmup_rollouts": 2020}}}, r"warmup_rollouts=2020 leaves 2300 of rollouts=4320.*use 2016"),
        ({"domain": "maths"}, r"domain = 'maths': .*'math', 'science' or 'dialogue'"),
        ({"profile": "big"}, r"unknown profile 'big'; use one of tiny"),
        ({"label": {"votes": "eight"}}, r"label.votes = 'eight'"),
    ],
)
def test_mistakes_are_named(raw: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_params(raw)


def test_another_domain_may_stand_in_for_the_files() -> None:
    assert (load_params(ROOT / "params.yaml").domain, load_params(ROOT / "params.yaml", domain="science").domain) == ("math", "science")


def test_values_of_the_domain_lie_over_the_sections_and_under_the_profile() -> None:
    raw = {
        "domain": "science",
        "profile": "mini",
        "sft": {"steps": 1, "batch_size": 1, "seed": 1},
        "domains": {"science": {"sft": {"steps": 2, "batch_size": 2}}, "math": {"sft": {"seed": 9}}},
        "profiles": {"mini": {"sft": {"steps": 3}}},
    }
    sft = resolve_params(raw).sft
    assert (sft.steps, sft.batch_size, sft.seed) == (3, 2, 1)


def test_files_that_are_no_parameters(tmp_path) -> None:
    with pytest.raises(UserError, match="not found"):
        load_params(tmp_path / "none.yaml")
    for text, message in (("a: [", "not valid YAML"), ("- 1", "found list")):
        (tmp_path / "params.yaml").write_text(text)
        with pytest.raises(UserError, match=message):
            load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"reward": {"kind": "model", "correction": "backward"}},
            "reward.kind = 'model': nobody knows how often.*set reward.checked_samples",
        ),
        (
            {"reward": {"correction": "forward"}, "label": {"heavy_tail_scale": 0.1, "heavy_tail_degrees": 1.0}},
            "label.heavy_tail_degrees = 1: such tails have no mean.*raise the degrees above 1",
        ),
    ],
)
def test_a_correction_that_cannot_be_right_is_refused(changes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Params.model_validate(changes)
