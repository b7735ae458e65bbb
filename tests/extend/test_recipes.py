"""The recipes of docs/extend.md that train: an algorithm, a critic, a noise channel, a domain, a sampler and a metric, in one copy of the project.

In one file, so that one worker of pytest-xdist runs them once.
"""

import json
import re
from pathlib import Path

import pytest

from pipeline.params import Params
from pipeline.study.file import cell_key
from tests import test_docs
from vrpo.config import GenerationConfig

BIAS = "0.002 more in units of reward for each character, up to 1.25"


@pytest.fixture
def trained(found: dict, copy) -> dict:
    assert Path(found["trained"]["where"]).is_relative_to(copy.folder)
    return found["trained"]


def test_an_algorithm_of_one_file_trains_with_a_loss_of_its_own(trained: dict) -> None:
    *_, last = trained["median"]
    assert last["iteration"] == 2 and last["policy/grad_norm"] > 0 and last["policy/surprisal"] > 0
    assert "policy/clip_fraction" not in last and "critic/ev_observed" not in last
    assert trained["median_split"] < 1e-5


def test_a_critic_of_one_file_trains_under_ppo_and_is_saved_with_its_head(trained: dict) -> None:
    first, *_, last = trained["quantiles"]
    assert first["critic/grad_norm"] > 0 and last["critic/quantile"] > 0 and last["critic/spread"] > 1e-3 and "critic/corr_mc" in last
    assert "critic/mse" not in last and last["policy/grad_norm"] > 0
    assert trained["head"] == {"depth": 0, "latent_size": 1, "outputs": 4, "head": ["quantile", "QuantileHead"]} and trained["outputs"] == 4
    assert "critic/quantile" in trained["vrpo_loses_its_own"] and "critic/semantic" not in trained["vrpo_loses_its_own"]
    assert trained["quantiles_split"] < 1e-5


def test_both_are_among_the_known_names_and_settings_are_checked(trained: dict) -> None:
    assert trained["no_method"].startswith("method = 'medain': no such method; use one of asyppo, dr_grpo, grpo, ")
    assert {"median", "ppo", "vrpo"} <= set(trained["no_method"].partition("use one of ")[2].split(", "))
    assert all(f"'{kind}'" in trained["no_kind"] for kind in ("plain", "quantile", "variational"))
    assert "train.critic.settings.quantile: " in trained["no_setting"]


@pytest.mark.parametrize("policy", ["whole", "lora"])
def test_an_engine_with_weights_of_its_own_is_one_file(found: dict, policy: str) -> None:
    run = found["sampler"][policy]
    assert (run["engine"], run["rows"], run["texts"]) == ("HalfSampler", 3, 3)
    assert run["updates"] == 4 and run["versions"] == [None, 0, 2]  # read once for each version that samples, not each time
    assert run["stale"] < 0.01  # what it samples from is the policy, rounded
    assert run["off"] < 1e-5 < 1e-3 < run["engine_off"]  # ratios are those of the policy, not of its rounded copy


def test_an_engine_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(ValueError, match="Input should be .*'transformers'"):
        GenerationConfig(engine="transfromers")


def test_the_choice_of_an_engine_names_no_earlier_run_anew() -> None:
    """Parameters of before there was a choice are those of the default: digests, checkpoints and data/params.yaml stay as they are."""
    params = Params(generation={"engine": "transformers"})
    assert "engine" not in params.model_dump()["generation"] and "engine" not in params.model_dump_json()
    other = params.model_copy(update={"generation": params.generation.model_copy(update={"engine": "half"})})
    assert cell_key("run", "ppo", 0, params, "") == cell_key("run", "ppo", 0, Params(), "") != cell_key("run", "ppo", 0, other, "")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_noise_of_one_file_acts_and_is_told_of(found: dict, copy) -> None:
    data = copy.folder / "folder/data"
    assert f"flips 0 to 1 (100 %) and 1 to 0 (0 %), {BIAS}" in (data / "reports/report.md").read_text()
    rows = [row for row in lines(data / "runs/vrpo-0/log.jsonl") if "reward/observed" in row]
    assert rows[-1]["iteration"] == 2 and all(1.0 < row["reward/observed"] <= 1.25 for row in rows)  # 1 by the flips, the rest by the bias
    event, *_ = lines(data / "tracking/train.jsonl")
    assert event["tags"]["noise"].endswith(BIAS) and event["name"].endswith(BIAS)


def test_the_schema_and_its_page_know_the_noise(found: dict, copy) -> None:
    assert found["noise"]["misspelt"].splitlines() == [
        "error: checked.yaml: noise.0.length.per_character: Field required",
        "checked.yaml: noise.0.length.per_charakter: unknown key; remove it or fix its spelling (did you mean 'per_character'?)",
    ]
    page = (copy.folder / "docs/parameters.md").read_text()
    assert "## noise: length\n\nEvery character of a response adds to its reward, up to a limit." in page
    assert "| `per_character` | number | | added for each, in units of reward |" in page


def test_a_correction_asks_for_checked_samples_where_nobody_knows_the_noises_rates(found: dict) -> None:
    (said,) = found["noise"]["uncorrected"].splitlines()
    assert "with noise {kind: length, per_character: 0.01, limit: 1.0}: nobody knows how often it flips; set reward.checked_samples" in said
    assert found["noise"]["corrected"] == ""


def test_a_domain_of_one_folder_goes_through_every_stage(found: dict, copy) -> None:
    data = copy.folder / "folder/data"
    assert "# VRPO on sorting letters with noisy rewards" in (data / "reports/report.md").read_text()
    rows = lines(data / "prepared/train.jsonl")
    assert {row["source"] for row in rows} == {"vrpo/sort"}
    assert {row["length"] for row in rows} == {2, 3, 4}  # settings.yaml
    assert json.loads((data / "evaluations/vrpo-0.json").read_text())["domain"] == "sort"


def test_a_domain_of_one_file_does_the_same(found: dict, copy) -> None:
    for name in ("prepared/train.jsonl", "labels/train.jsonl", "models/sft/model.safetensors", "runs/vrpo-0/policy/model.safetensors"):
        assert (copy.folder / "file/data" / name).read_bytes() == (copy.folder / "folder/data" / name).read_bytes()
    assert found["file"]["verified"] == found["folder"]["verified"] == [1.0, 0.0]


def test_a_metric_reaches_log_stage_records_and_glossary(found: dict, copy, monkeypatch: pytest.MonkeyPatch) -> None:
    name, data = "reward/length_correlation", copy.folder / "folder/data"
    values = [row[name] for row in lines(data / "runs/vrpo-0/log.jsonl")]
    assert (
        len(values) == 3 and min(values) > 0.9 and found["folder"]["metrics"][name] == values[-1]
    )  # noise by characters; tokens count the end, too
    assert [event["values"][name] for event in lines(data / "tracking/train.jsonl") if event["event"] == "metrics"] == values
    assert name not in test_docs.logged_names()
    monkeypatch.setattr(test_docs, "ROOT", copy.folder)
    assert name in test_docs.logged_names() and name in test_docs.glossary()


def test_what_the_page_says_to_write_in_params_yaml_is_right(found: dict) -> None:
    assert set(found["checks"]) == {"algorithm 0", "critic 0", "channel 0", "domain 0", "domain 1", "sampler 0"}
    assert not {name: said for name, said in found["checks"].items() if said and not re.fullmatch(r"(warning: .*\n)*", said)}
