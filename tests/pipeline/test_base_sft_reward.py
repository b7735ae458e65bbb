"""The stages that make models before training: base, sft, reward; and the reward model's noise and scores."""

import math
import shutil
from pathlib import Path

import pytest
import torch

from pipeline.files import read_jsonl, write_jsonl
from pipeline.params import Params
from pipeline.stages import base, reward, sft
from pipeline.workspace import HERE
from vrpo.errors import UserError
from vrpo.models.loading import load_causal_lm, load_tokenizer, new_llama, save_model
from vrpo.rewards.model import RewardModelScorer, new_reward_model, noisy_preferences, pairwise_accuracy
from vrpo.tasks.math.chain import ChainTask, generate_problems, new_tokenizer, work_through


class Recorder:
    """Stands in for `pipeline.tracking.record.Record`."""

    def __init__(self) -> None:
        self.curve, self.models = [], []

    def metrics(self, values: dict, step: int | None = None) -> None:
        self.curve.append((step, values))

    def model(self, path: Path, kind: str, metrics: dict) -> None:
        self.models.append((Path(path), kind))


def params(**sections) -> Params:
    values = {
        "prepare": {"max_length": 2},
        "base": {"hidden_size": 32, "layers": 1, "heads": 2, "steps": 20, "batch_size": 16, "learning_rate": 1e-2},
        "sft": {"demonstrations": 16, "steps": 4, "batch_size": 8, "learning_rate": 1e-3},
        "reward": {"kind": "model", "pairs": 24, "steps": 3, "batch_size": 8},
        "generation": {"max_new_tokens": 10},
        "evaluate": {"samples": 1},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return Params.model_validate(values)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project folder with prepared problems of one and two operations."""
    monkeypatch.chdir(tmp_path)
    seen: set[str] = set()
    for seed, (split, count) in enumerate({"train": 80, "validation": 20, "test": 20}.items()):
        rows = generate_problems(count, seed, 1, 2, seen)
        seen |= {row["question"] for row in rows}
        write_jsonl(Path(f"data/prepared/{split}.jsonl"), [{"id": f"{split}-{i}", **row} for i, row in enumerate(rows)])
    return tmp_path


@pytest.fixture(scope="module")
def half_trained(tmp_path_factory) -> Path:
    """A model folder that answers with well-formed sheets, some right and some wrong."""
    from vrpo.models.supervised import fit_demonstrations

    tokenizer, task = new_tokenizer(), ChainTask(2)
    pairs = [{"prompt": task.prompt(row["question"]), "completion": row["solution"]} for row in generate_problems(200, 0, 1, 2, set())]
    model = new_llama(tokenizer, hidden_size=32, layers=1, heads=2, seed=0)
    fit_demonstrations(model, tokenizer, pairs, steps=120, batch_size=16, learning_rate=1e-2, seed=0, stage="sft")
    folder = tmp_path_factory.mktemp("models") / "sft"
    save_model(model, tokenizer, folder)
    return folder


@pytest.fixture
def cold_start(project, half_trained) -> Path:
    return shutil.copytree(half_trained, "data/models/sft")


def same_weights(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_base_from_scratch_learns_and_is_reproducible(project):
    recorder = Recorder()
    metrics = base.run(params(), recorder)
    first = load_causal_lm("data/models/base")
    assert metrics["steps"] == 20 == len(recorder.curve)
    assert metrics["loss_last"] < 0.9 * metrics["loss_first"]
    assert metrics["parameters"] == sum(p.numel() for p in first.parameters())
    assert recorder.models == [(Path("data/models/base"), "base")]
    assert load_tokenizer("data/models/base").get_vocab() == new_tokenizer().get_vocab()
    base.run(params(), Recorder())
    assert same_weights(first, load_causal_lm("data/models/base"))
    base.run(params(base={"seed": 1}), Recorder())
    assert not same_weights(first, load_causal_lm("data/models/base"))


def test_corpus_leaves_out_what_is_held_out_and_starts_careful(project):
    held_out = {row["question"] for split in ("validation", "test") for row in read_jsonl(Path(f"data/prepared/{split}.jsonl"))}
    config = params(base={"steps": 40, "batch_size": 50, "slip_rate": 0.3})
    task, rows = ChainTask(2), base.corpus(config, held_out)
    assert len(rows) == 40 * 50
    assert not {row["prompt"] for row in rows} & {task.prompt(question) for question in held_out}
    assert {len(row["prompt"].replace(".", "")) for row in rows} == {4, 6}  # both lengths throughout

    def clean(row: dict[str, str]) -> bool:
        return row["completion"] == work_through(row["prompt"].replace(".", "").rstrip(":"))

    assert all(clean(row) for row in rows[: 24 * 50])
    sloppy = rows[24 * 50 :]
    slipped = 1 - sum(map(clean, sloppy)) / len(sloppy)
    expected = 1 - (0.7 + 0.7**2) / 2
    assert abs(slipped - expected) < 4 * math.sqrt(expected * (1 - expected) / len(sloppy))


def test_base_from_a_folder_is_kept_unchanged(project, tmp_path):
    tokenizer = new_tokenizer()
    model = new_llama(tokenizer, hidden_size=32, layers=1, heads=2, seed=5)
    save_model(model, tokenizer, tmp_path / "mine")
    metrics = base.run(params(base={"source": str(tmp_path / "mine")}), Recorder())
    assert same_weights(model, load_causal_lm("data/models/base"))
    assert metrics == {"parameters": sum(p.numel() for p in model.parameters())}


def test_base_refuses_what_cannot_work(project):
    with pytest.raises(UserError, match=r"base\.source = 'scratch' learns procedural problems only"):
        base.run(params(prepare={"dataset": "mine.jsonl"}), Recorder())
    with pytest.raises(UserError, match=r"base\.batch_size = 9000"):
        base.run(params(base={"batch_size": 9000}), Recorder())
    with pytest.raises(UserError, match="package:no-such-package: not installed"):
        base.run(params(base={"source": "package:no-such-package"}), Recorder())
    assert not Path("data/models/base").exists()


def test_sft_trains_on_demonstrations_only_of_train(project, monkeypatch):
    import vrpo.models.supervised

    base.run(params(base={"steps": 2}), Recorder())
    seen = []
    original = vrpo.models.supervised.fit_demonstrations

    def spy(model, tokenizer, pairs, **settings):
        seen.extend(pairs)
        return original(model, tokenizer, pairs, **settings)

    monkeypatch.setattr(vrpo.models.supervised, "fit_demonstrations", spy)
    recorder = Recorder()
    metrics = sft.run(params(), recorder)
    task = ChainTask(2)
    known = {task.prompt(row["question"]): row["solution"] for row in read_jsonl(Path("data/prepared/train.jsonl"))}
    assert len(seen) == 16 == len({pair["prompt"] for pair in seen})
    assert all(known[pair["prompt"]] == pair["completion"] for pair in seen)
    assert metrics["loss_last"] < metrics["loss_first"]
    assert recorder.models == [(Path("data/models/sft"), "sft")]
    assert not same_weights(load_causal_lm("data/models/sft"), load_causal_lm("data/models/base"))


def test_half_precision_does_not_round_the_weights_that_stages_train(project, tmp_path):
    """runtime.dtype says how to compute: a source and a cold start in bfloat16 are those of float32, bit for bit."""
    from transformers import AutoModelForCausalLM

    tokenizer = new_tokenizer()
    model = new_llama(tokenizer, hidden_size=32, layers=1, heads=2, seed=5)
    save_model(model, tokenizer, tmp_path / "mine")
    trained = {}
    for dtype in ("float32", "bfloat16"):
        changed = params(base={"source": str(tmp_path / "mine")}, runtime={"dtype": dtype})
        base.run(changed, Recorder())
        assert same_weights(model, AutoModelForCausalLM.from_pretrained("data/models/base", dtype="auto"))
        sft.run(changed, Recorder())
        trained[dtype] = AutoModelForCausalLM.from_pretrained("data/models/sft", dtype="auto")
        assert trained[dtype].dtype == torch.float32
    assert same_weights(*trained.values())


def test_learned_rewards_far_from_zero_are_probabilities(monkeypatch):
    monkeypatch.setattr(reward, "load_scorer", lambda params, workspace: lambda prompts, responses: [-1e4, -800.0, 0.0, 1e4])
    scores = reward.learned_reward(params(), ChainTask(2), HERE)([""] * 4, [""] * 4, answer=["1"] * 4)
    assert scores == [pytest.approx(0.0, abs=1e-300), pytest.approx(0.0, abs=1e-300), 0.5, 1.0]


def test_sft_wants_no_more_demonstrations_than_there_are(project):
    base.run(params(base={"steps": 2}), Recorder())
    with pytest.raises(UserError, match=r"sft\.demonstrations = 81: only 80 training problems"):
        sft.run(params(sft={"demonstrations": 81}), Recorder())


def test_rule_rewards_need_no_model(project):
    assert reward.run(params(reward={"kind": "rule"}), Recorder()) == {"kind": "rule"}
    assert [file.name for file in Path("data/models/reward").iterdir()] == ["reward.json"]
    with pytest.raises(UserError, match=r"holds no reward model; set reward\.kind to 'model'"):
        RewardModelScorer("data/models/reward")


def test_reward_model_is_trained_measured_and_saved(cold_start):
    recorder = Recorder()
    metrics = reward.run(params(reward={"label_error": 0.25}), recorder)
    assert 10 <= metrics["pairs"] + metrics["pairs_held_out"] <= 30
    assert metrics["pairs_held_out"] == int(0.2 * (metrics["pairs"] + metrics["pairs_held_out"]))
    assert 0 <= metrics["accuracy_clean"] <= 1
    assert recorder.models == [(Path("data/models/reward"), "reward")]
    assert len(recorder.curve) == 3
    assert len(RewardModelScorer("data/models/reward")(["1+1.....:"], ["+12"])) == 1


def test_implicit_reward_is_trained_blurred_and_read_as_saved(cold_start):
    config = params(reward={"kind": "implicit", "accuracy": 0.55})
    metrics = reward.run(config, Recorder())
    held_out = reward._clean_pairs(config, HERE)[: metrics["pairs_held_out"]]
    half = len(held_out) // 2
    assert metrics["accuracy_clean"] == pairwise_accuracy(reward.load_scorer(config, HERE), held_out[half:])
    assert metrics["accuracy_unblurred"] == pairwise_accuracy(reward.load_scorer(config, HERE).scorer, held_out)
    assert (metrics["blur"] > 0) == (pairwise_accuracy(reward.load_scorer(config, HERE).scorer, held_out[:half]) > 0.55)


def test_pairs_are_right_before_wrong(cold_start):
    pairs = reward._clean_pairs(params(), HERE)
    task = ChainTask(2)
    answers = {task.prompt(row["question"]): row["answer"] for row in read_jsonl(Path("data/prepared/train.jsonl"))}
    assert len({pair["prompt"] for pair in pairs}) == len(pairs) >= 10
    references = [answers[pair["prompt"]] for pair in pairs]
    assert task.verify([pair["chosen"] for pair in pairs], references) == [1.0] * len(pairs)
    assert task.verify([pair["rejected"] for pair in pairs], references) == [0.0] * len(pairs)


def test_no_pairs_is_an_error_that_says_why(project):
    base.run(params(base={"steps": 1}), Recorder())
    Path("data/models/base").rename("data/models/sft")
    with pytest.raises(UserError, match=r"only \d of 60 problems have both a right and a wrong sample"):
        reward.run(params(), Recorder())


PAIRS = [{"prompt": f"p{i}", "chosen": "+12" * (1 + i % 2), "rejected": "+13" * (2 - i % 2)} for i in range(4000)]


@pytest.mark.parametrize("rate", [0.0, 0.2, 1.0])
def test_share_of_flipped_pairs_is_the_label_error(rate):
    noisy = noisy_preferences(PAIRS, rate, 0.0, seed=0)
    flipped = sum(a["chosen"] == b["rejected"] for a, b in zip(noisy, PAIRS, strict=True)) / len(PAIRS)
    assert abs(flipped - rate) <= 4 * math.sqrt(rate * (1 - rate) / len(PAIRS))
    assert noisy == noisy_preferences(PAIRS, rate, 0.0, seed=0)
    if 0 < rate < 1:
        assert noisy != noisy_preferences(PAIRS, rate, 0.0, seed=1)


def test_length_bias_prefers_the_longer():
    def longer_first(pairs):
        return sum(len(pair["chosen"]) > len(pair["rejected"]) for pair in pairs) / len(pairs)

    assert longer_first(PAIRS) == 0.5
    assert longer_first(noisy_preferences(PAIRS, 0.0, 1.0, seed=0)) == 1.0
    assert abs(longer_first(noisy_preferences(PAIRS, 0.0, 0.4, seed=0)) - 0.7) < 0.03
    assert abs(longer_first(noisy_preferences(PAIRS, 0.2, 1.0, seed=0)) - 0.8) < 0.03  # errors come after
    ties = [{"prompt": "p", "chosen": "+12", "rejected": "+13"}] * 50
    assert noisy_preferences(ties, 0.0, 1.0, seed=0) == ties


@pytest.fixture
def scorer(tmp_path):
    save_model(new_llama(new_tokenizer(), hidden_size=32, layers=2, heads=2, seed=0), new_tokenizer(), tmp_path / "sft")
    model, tokenizer = new_reward_model(tmp_path / "sft", seed=0)
    save_model(model, tokenizer, tmp_path / "reward")
    return RewardModelScorer(tmp_path / "reward", batch_size=3)


TEXTS = (["3+5.-2.:", "1*1....:", "7-7....:", "3+5.-2.:"], ["+58-26", "*11", "-70?", "+58-25"])


def test_scores_do_not_depend_on_what_is_scored_beside(scorer):
    together = scorer(*TEXTS)
    alone = [scorer([prompt], [response])[0] for prompt, response in zip(*TEXTS, strict=True)]
    assert together == pytest.approx(alone, abs=1e-6)
    assert len(set(together)) == 4


def test_scores_are_those_of_the_plain_model(scorer):
    texts = [prompt + response + scorer.tokenizer.eos_token for prompt, response in zip(*TEXTS, strict=True)]
    batch = scorer.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        assert scorer(*TEXTS) == pytest.approx(scorer.model(**batch).logits[:, 0].tolist(), abs=1e-6)


def test_padding_is_never_eos(tmp_path):
    tokenizer = new_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    save_model(new_llama(tokenizer, hidden_size=32, layers=1, heads=2, seed=0), tokenizer, tmp_path / "sft")
    with pytest.raises(UserError, match="no special token but EOS"):
        new_reward_model(tmp_path / "sft", seed=0)
    tokenizer.add_special_tokens({"unk_token": "?"})
    tokenizer.save_pretrained(tmp_path / "sft")
    model, tokenizer = new_reward_model(tmp_path / "sft", seed=0)
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
