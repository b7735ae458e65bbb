"""Parameters: every mistake is named; the profile wins where it speaks."""

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.overlays import overlay
from pipeline.params import Params, load_params, resolve_params
from vrpo.config import TrainConfig
from vrpo.errors import UserError
from vrpo.training.trainer import Trainer

ROOT = Path(__file__).parents[2]


def test_committed_params_are_the_defaults_but_for_the_experiment_s_own() -> None:
    """One truth: what params.yaml sets for the default profile is what the library does by itself, but for the noise of the default run, what
    critics see and lean on under it, how long it takes, and a value warm-up of a given size."""
    ours, defaults = load_params(ROOT / "params.yaml").model_dump(), resolve_params({}).model_dump()
    own = {"noise", "methods"} | {f"train.{key}" for key in ("gae_lambda", "monte_carlo_prefixes")}
    own |= {f"train.critic.{key}" for key in ("surprisal_inputs", "warmup_epochs", "warmup_rollouts")} | {"evaluate.samples"}

    def differences(a, b, where=""):
        if isinstance(a, dict):
            return {
                place for key in a.keys() | b.keys() for place in differences(a.get(key), b.get(key), f"{where}.{key}" if where else key)
            }
        return set() if a == b else {where}

    assert differences(ours, defaults) == own


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
        ({"methods": ["dpo"]}, r"methods.0 = 'dpo': .*'dr_grpo', 'grpo', .* or 'vrpo'"),
        ({"seeds": []}, r"seeds = \[\]"),
        ({"train": {"rollouts": 96, "critic": {"warmup_rollouts": 2016}}}, r"rollouts=96 leaves -1920 after critic.warmup_rollouts=2016"),
        ({"train": {"rollouts": 4350}}, r"rollouts=4350 is no multiple of iterations=12 x group_size=8.*use 4320"),
        ({"train": {"critic": {"warmup_rollouts": 2020}}}, r"warmup_rollouts=2020 leaves 2300 of rollouts=4320.*use 2016"),
        ({"domain": "maths"}, r"domain = 'maths': use one of dialogue, math, science.*, or FILE.py:NAME"),
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
            {"reward": {"correction": "forward"}, "noise": [{"kind": "heavy_tail", "scale": 0.1, "degrees": 1.0}]},
            "noise {kind: heavy_tail, scale: 0.1, degrees: 1.0}: such tails have no mean.*raise the degrees above 1",
        ),
    ],
)
def test_a_correction_that_cannot_be_right_is_refused(changes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Params.model_validate(changes)


@pytest.mark.parametrize("place", ["", "domains.science", "profiles.mini"])
@pytest.mark.parametrize(
    ("key", "value", "form"),
    [
        ("false_positive_rate", 0.2, "[{kind: flip, false_positive: 0.2}]"),
        ("false_negative_rate", 0.0, "[{kind: flip, false_negative: 0.0}]"),
        ("prompt_flip_rate", 0.1, "[{kind: prompt_flip, rate: 0.1}]"),
        ("heavy_tail_scale", 0.3, "[{kind: heavy_tail, scale: 0.3}]"),
        ("heavy_tail_degrees", 2.5, "[{kind: heavy_tail, scale: ..., degrees: 2.5}]"),
    ],
)
def test_keys_of_before_are_refused_with_what_stands_in_their_place(place: str, key: str, value: float, form: str) -> None:
    changes = {"label": {key: value}}
    for part in reversed(place.split(".") if place else []):
        changes = {part: changes}
    assert complaint(changes) == f"params.yaml: {f'{place}.'.lstrip('.')}label.{key}: is now noise: {form}"


def test_a_profile_lays_its_noise_over_that_of_the_file_as_a_whole() -> None:
    tails, flips = [{"kind": "heavy_tail", "scale": 0.3}], [{"kind": "prompt_flip", "rate": 0.1}, {"kind": "flip", "false_positive": 0.2}]
    raw = {"noise": flips, "domains": {"science": {"noise": tails}}, "profiles": {"calm": {"noise": []}}}
    noise = [resolve_params(raw | chosen).noise for chosen in ({}, {"domain": "science"}, {"domain": "science", "profile": "calm"})]
    assert [[channel.kind for channel in channels] for channels in noise] == [["prompt_flip", "flip"], ["heavy_tail"], []]


def test_parameters_are_checked_without_torch() -> None:
    code = "import sys; from pipeline.params import load_params; load_params(); print({'torch', 'scipy', 'transformers'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


COMMITTED = yaml.safe_load((ROOT / "params.yaml").read_text())


def complaint(changes: dict) -> str:
    """What is said of params.yaml with changes; its domain is math and its profile tiny."""
    with pytest.raises(UserError) as error:
        resolve_params(overlay(COMMITTED, changes))
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"profiles": {"mini": {"train": {"group_size": 0}}}}, "params.yaml: profiles.mini.train.group_size = 0: "),
        ({"profiles": {"mini": {"train": {"critic": {"dept": 1}}}}}, "profiles.mini.train.critic.dept: unknown key.*did you mean 'depth'"),
        ({"domains": {"science": {"labels": {}}}}, "domains.science.labels: unknown key.*did you mean 'label'"),
        ({"domains": {"sciense": {}}}, "domains.sciense: unknown domain; use one of dialogue, math, science"),
        ({"profiles": {"mini": {"domain": "science"}}}, "profiles.mini.domain: is read at the top alone"),
        ({"profiles": {"mini": {"methods": ["ppo"]}}}, "profiles.mini.methods: is read at the top alone"),
        ({"profiles": {"mini": {"train": None}}}, "profiles.mini.train = None: .*below it, or {}"),
        ({"profiles": {"mini": 3}}, "profiles.mini = 3: write sections"),
        ({"profiles": ["mini"]}, r"profiles = \['mini'\]: write names"),
        ({"profiles": {"mini": {"train": {"rollouts": 191}}}}, "profiles.mini: train: rollouts=191 is no multiple of"),
        (
            {"domains": {"dialogue": {"label": {"source": "majority_vote"}}}},
            "domains.dialogue: label.source = 'majority_vote': slot-filling dialogues",
        ),
        ({"profile": ["mini"]}, r"profile = \['mini'\]: "),
    ],
)
def test_domains_and_profiles_that_are_not_chosen_are_checked_too(changes: dict, message: str) -> None:
    assert re.search(message, said := complaint(changes)) and "\n" not in said


def test_a_profile_may_go_with_one_domain_alone() -> None:
    """Dialogues have no votes, so this one goes with math and science; that says nothing against the file."""
    resolve_params(overlay(COMMITTED, {"profiles": {"mini": {"label": {"source": "majority_vote"}}}}))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.iterations", True, "= True: .*valid integer"),
        ("train.learning_rate", True, "= True: .*valid number"),
        ("train.critic.depth", True, "= True: .*valid integer"),
        ("train.iterations", "12", "= '12': .*without quotes"),
        ("train.learning_rate", "0.1", "= '0.1': .*without quotes"),
        ("train.critic.warmup_epochs", 6.0, "= 6.0: .*whole number"),
        ("train.gradient_checkpointing", 1, "= 1: .*true or false"),
        ("train.gradient_checkpointing", "yes", "= 'yes': .*true or false"),
        ("train.max_grad_norm", math.inf, "= inf: .*finite"),
        ("train.learning_rate", math.nan, "= nan: .*"),
        ("noise", [{"kind": "heavy_tail", "scale": math.inf}], ".0.heavy_tail.scale = inf: .*finite"),
        ("noise", [{"kind": "heavy_tail", "scale": -0.1}], ".0.heavy_tail.scale = -0.1: .*greater than or equal to 0"),
        ("noise", [{"kind": "flip", "false_positive": 1.2}], ".0.flip.false_positive = 1.2: .*less than or equal to 1"),
        ("noise", [{"kind": "flip", "flase_positive": 0.2}], ".0.flip.flase_positive: unknown key.*did you mean 'false_positive'"),
        ("noise", [{"kind": "prompt_flip"}], ".0.prompt_flip.rate: Field required"),
        ("noise", [{"kind": "flop"}], ".0: .*'flop'.*'flip', 'heavy_tail', .*'prompt_flip'"),
        ("noise", [{"rate": 0.1}], r".0: .*'kind'; name the kind first, as in \{kind: flip"),
        ("noise", {"kind": "flip"}, r".*write \[one, another\]"),
        ("train", None, "= None: .*below it, or {}"),
        ("train.critic", [], r"= \[\]: .*keys and values"),
        ("seeds", [0, 1, 0], r"= \[0, 1, 0\]: 0 stands twice"),
        ("methods", ["vrpo", "ppo", "vrpo"], "vrpo stands twice"),
        ("seeds", [-1], "seeds.0 = -1: .*greater than or equal to 0"),
        ("seeds", [2**64], "seeds.0 = 18446744073709551616: .*less than 4294967296"),
        ("base.seed", 2**64, "less than 4294967296"),
        ("sft.seed", -3, "= -3: "),
        ("runtime.device", "gpu", "= 'gpu': use cpu, cuda or cuda:N"),
        ("runtime.device", "mps", "= 'mps': use cpu, cuda or cuda:N"),
        ("runtime.device", "cuda:", "use cpu, cuda or cuda:N"),
        ("seeds", 0, r"= 0: .*write \[one, another\]"),
        ("prepare.dataset", "", "= '': .*at least 1 character"),
        ("base.source", "", "= '': .*at least 1 character"),
        ("runtime.dtype", "fp16", "= 'fp16': .*'float16'"),
    ],
)
def test_values_of_another_type_or_without_end_are_refused(key: str, value: object, message: str) -> None:
    for part in reversed(key.split(".")):
        value = {part: value}
    assert re.search(rf"params.yaml: {key}.*{message}|params.yaml: {message}", said := complaint(value)) and "\n" not in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prepare": {"min_length": 9}}, "prepare: min_length = 9 is above max_length = 8; lower it"),
        ({"train": {"group_size": 1}}, "train.group_size = 1: grpo compares.*use 2 or more, or take grpo out of methods"),
        ({"train": {"group_size": 1}, "methods": ["rloo", "dr_grpo"]}, "take rloo and dr_grpo out of methods"),
        ({"train": {"critic": {"warmup_rollouts": 2004}}, "methods": ["ppo", "pf_ppo"]}, "2004 is no multiple of .*; use 1920"),
        ({"base": {"heads": 5}}, "base: hidden_size = 96 is no multiple of twice heads = 5; use 100"),
        ({"base": {"heads": 32}}, "hidden_size = 96 is no multiple of twice heads = 32; use 128"),
        ({"methods": ["oracle"], "domain": "science"}, "methods: oracle needs a task whose values are known"),
        ({"label": {"source": "dataset"}}, "label.source = 'dataset': problems of prepare.dataset = procedural have no labels"),
        (
            {"noise": [{"kind": "flip", "false_positive": 0.6, "false_negative": 0.4}], "reward": {"correction": "backward"}},
            r"reward.correction = 'backward': noise = \[{kind: flip, false_positive: 0.6, false_negative: 0.4}\] leaves no signal",
        ),
        (
            {"noise": [{"kind": "prompt_flip", "rate": 0.5}], "reward": {"correction": "forward"}},
            "prompt_flip, rate: 0.5}. leaves no signal",
        ),
        (
            {"domain": "dialogue", "noise": [{"kind": "flip", "false_positive": 0.1}], "reward": {"per_turn": True}},
            r"reward.per_turn = true: needs .* and noise = \[\]",
        ),
    ],
)
def test_values_that_do_not_go_together_are_refused(changes: dict, message: str) -> None:
    assert re.search(message, said := complaint(changes)) and "\n" not in said


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"group_size": 1}, "methods": ["ppo", "vrpo"]},
        {"train": {"critic": {"warmup_rollouts": 2004}}, "methods": ["ppo", "grpo"]},
        {"base": {"heads": 5, "source": "my-folder"}},
        {"noise": [{"kind": "flip", "false_positive": 0.6, "false_negative": 0.4}]},
        {"prepare": {"min_length": 8}},
        {"train": {"learning_rate": 1, "lora": {"target_modules": ["q_proj"]}}},
    ],
)
def test_odd_but_possible_values_pass(changes: dict) -> None:
    resolve_params(overlay(COMMITTED, changes))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; write sections"),
        ("# nothing\n", "is empty; write sections"),
        ("7", "found int"),
        ("seeds: [0]\nmethods: [ppo]\nseeds: [1]\n", "line 3: seeds is set twice, first in line 1"),
        ("sft:\n  steps: 1\n  'steps': 2\n", "line 3: steps is set twice, first in line 2"),
        ("profiles: {mini: {sft: {steps: 1, steps: 1}}}", "line 1: steps is set twice"),
        ("sft:\n\tsteps: 1\n", "not valid YAML, line 2"),
        ("a: 1\0", "not valid YAML"),
        ("base: {source: 2024-13-45}", "month must be in 1..12"),
        (f"base: {{seed: {'9' * 5000}}}", "5000 digits"),
        ("a: " + "[" * 3000, "recursion"),
        ("train: {iterations: 010}", "train.iterations = '010'"),
        ("train: {iterations: 1:30}", "train.iterations = '1:30'"),
    ],
)
def test_repeated_keys_and_files_without_sections_are_refused(tmp_path, text: str, message: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load_params(tmp_path / "params.yaml")
    assert "\n" not in str(error.value)


def test_folders_and_bytes_are_no_parameters(tmp_path) -> None:
    (tmp_path / "params.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "params.yaml"):
        with pytest.raises(UserError, match="cannot be read as UTF-8 text"):
            load_params(path)


def test_anchors_and_merged_keys_are_no_repetition_and_small_numbers_are_read_as_dvc_writes_them(tmp_path) -> None:
    """`-S sft.learning_rate=0.00001` is written as 1e-05, which YAML 1.1 takes for text."""
    text = (
        "sft: &first {steps: 3, learning_rate: 1e-05}\nprofiles: {one: {sft: {<<: *first, steps: 4}}, two: {sft: *first}}\nprofile: one\n"
    )
    (tmp_path / "params.yaml").write_text(text)
    sft = load_params(tmp_path / "params.yaml").sft
    assert (sft.steps, sft.learning_rate) == (4, 1e-5)


@pytest.mark.parametrize("method", ["grpo", "dr_grpo", "rloo"])
def test_groups_of_one_response_are_refused_before_any_sampling(method: str) -> None:
    """In Python too, where nobody checks the methods of a file."""
    with pytest.raises(UserError, match="train.group_size = 1: .*use 2 or more"):
        Trainer(TrainConfig(group_size=1), None, None, None, None, method=method)
