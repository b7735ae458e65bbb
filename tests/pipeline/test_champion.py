"""Models in MLflow: known once, and the champion stays until a policy is clearly better."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.params import Params
from pipeline.tracking import mirror, send
from pipeline.tracking import record as tracking
from pipeline.tracking.champion import clearly_better
from pipeline.tracking.file import digest
from tests.pipeline.database import select


def checkpoint(folder: Path, seed: int) -> Path:
    """A language model of a few hundred weights with a tokenizer of ten characters."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    tokenizer = Tokenizer(models.WordLevel({str(digit): digit for digit in range(10)} | {"<pad>": 10}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=11, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, pad_token_id=10, eos_token_id=10
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_models_are_known_and_the_best_policy_is_the_champion(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    candidates = [{"method": "vrpo", "seed": seed, "accuracy": {"mean": mean}} for seed, mean in ((0, 0.4), (1, 0.7))]
    for seed in (0, 1):
        checkpoint(Path(f"data/runs/vrpo-{seed}/policy"), seed)
    with tracking.record("report", stage="report", params=Params()) as record:
        record.artifact("data/runs/vrpo-1/policy/config.json")
        record.metrics({"accuracy": 0.4}, step=4)
        record.model("data/runs/vrpo-0/policy", "policy", {"accuracy": 0.4})
        assert record.champion(candidates) == "vrpo-1"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    for _ in range(2):
        send.sync()
        Path("data/tracking/report.sync.json").unlink()  # everything is sent again
    assert select("SELECT version FROM model_versions") == [(1,)]
    assert len(select("SELECT * FROM logged_models WHERE name = 'policy'")) == 1
    assert set(select("SELECT step FROM metrics WHERE key = 'accuracy'")) == {(4,)}  # the model's own point does not bend the curve
    assert len(list(Path("mlartifacts").rglob("artifacts/config.json"))) == 1

    import mlflow

    champion = mlflow.pyfunc.load_model("models:/vrpo-policy-math-tiny@champion")
    (folder,) = Path("mlartifacts").rglob("artifacts/artifacts/policy")
    assert digest(folder) == digest(Path("data/runs/vrpo-1/policy"))
    completions = champion.predict(["12", "1234"])
    assert completions[0] == champion.predict(["12"])[0] != ""  # padding does not change a completion


def report_of(seed: int, accuracy: float, problems: int = 100, data: str = "a") -> str:
    """The verdict in MLflow on a report whose best policy is that of `seed`."""
    checkpoint(Path(f"data/runs/vrpo-{seed}/policy"), seed)
    label = f"report-{seed}"
    with tracking.record(label, stage="report", params=Params()) as record:
        record.champion([{"method": "vrpo", "seed": seed, "accuracy": {"mean": accuracy, "n": problems, "data": data}}])
    mirror.mirror(Path(f"data/tracking/{label}.jsonl"), mirror.connect(), closing=True)
    ((verdict,),) = select(f"SELECT value FROM tags WHERE key = 'champion' AND value LIKE 'vrpo-{seed}:%'")
    return verdict.partition(": ")[2]


def test_the_champion_stays_until_one_is_clearly_better(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_start_follower", lambda path: None)
    assert report_of(0, 0.6) == "champion, version 1"
    assert report_of(1, 0.65) == "version 1 (vrpo-0) stays, 65.0% is not clearly better than its 60.0%"
    assert "other problems" in report_of(2, 0.95, data="b")
    assert report_of(3, 0.9) == "champion, version 2"
    assert select("SELECT name, alias, version FROM registered_model_aliases") == [("vrpo-policy-math-tiny", "champion", 2)]

    import mlflow

    signature = mlflow.models.get_model_info("models:/vrpo-policy-math-tiny@champion").signature
    assert [column.type.name for column in (*signature.inputs, *signature.outputs)] == ["string", "string"]


@pytest.mark.parametrize(
    ("shares", "problems", "better"),
    [((0.7, 0.6), 100, False), ((0.7, 0.6), 1000, True), ((1.0, 1.0), 10, False), ((0.5, 0.6), 10000, False), ((0.1, 0.0), 20, False)],
)
def test_clearly_better_is_beyond_the_interval(shares: tuple[float, float], problems: int, better: bool) -> None:
    assert clearly_better(*shares, (problems, problems)) == better
