"""A model goes to a folder in the hub's layout, or to the hub, with a card that says what it is."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError
from small import ROWS, Heard, new_trainer
from transformers import AutoModelForCausalLM, AutoTokenizer

from vrpo import ValueModel
from vrpo.adapters import hub
from vrpo.errors import UserError


def test_push_to_a_folder_gives_the_hubs_layout_and_an_honest_card(tokenizer, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    heard = Heard()
    noise = [{"kind": "flip", "false_positive": 0.25}]
    options = {"noise": noise, "eval_dataset": ROWS[:4], "eval_strategy": "steps", "callbacks": [heard], "push_to_hub": True}
    trainer = new_trainer(tokenizer, tmp_path / "run", hub_model_id="./published/mine", hub_token="secret", **options)
    (tmp_path / "published/mine").mkdir(parents=True)
    (tmp_path / "published/mine/LICENSE").write_text("mine")
    trainer.train()
    assert ("push_begin", 4) in heard.moments
    folder = tmp_path / "published" / "mine"
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json", "value_model", "LICENSE"} <= {
        file.name for file in folder.iterdir()
    }
    AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder), ValueModel.from_pretrained(folder / "value_model")
    card = ModelCard.load(folder / "README.md")
    assert card.data.tags == ["vrpo", "reinforcement-learning"] and card.data.library_name == "transformers"
    log = trainer.trainer.log
    for part in (
        "24 rows with the columns `prompt`, `answer`. 4 rows were held out",
        "- `digits`, weight 1",
        "flips 0 to 1 (25 %) and 1 to 0 (0 %)",
        "vrpo, 4 optimiser steps of the policy on 32 sampled responses, seed 42",
        f"| held-out reward | {log[0]['validation/accuracy']:.4g} | {log[-1]['validation/accuracy']:.4g} |",
        "| `learning_rate` | 0.01 |",
        'from_pretrained("mine")',
    ):
        assert part in card.content, part
    assert "secret" not in card.content and str(tmp_path) not in card.content
    trainer.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert not list(folder.glob(".saving-*"))


@pytest.mark.parametrize(
    ("target", "folder"), [("./a", True), ("../a", True), ("/a/b", True), ("~/a", True), ("a", False), ("me/a", False)]
)
def test_a_folder_is_told_from_an_id(target: str, folder: bool) -> None:
    assert hub.is_folder(target) == folder


def test_push_to_the_hub_uploads_the_same_files(tokenizer, tmp_path, monkeypatch) -> None:
    calls = []

    class Api:
        def __init__(self, token) -> None:
            calls.append(("token", token))

        def create_repo(self, repo_id, private, exist_ok):
            calls.append(("create", repo_id, private, exist_ok))
            return type("Address", (str,), {"repo_id": repo_id})(f"https://hub/{repo_id}")

        def upload_folder(self, repo_id, folder_path, commit_message, revision) -> None:
            calls.append(("upload", repo_id, sorted(file.name for file in Path(folder_path).iterdir()), commit_message))

    monkeypatch.setattr(hub, "HfApi", Api)
    trainer = new_trainer(tokenizer, tmp_path / "run", method="grpo", hub_model_id="me/mine", hub_token="secret", hub_private_repo=True)
    trainer.train()
    assert trainer.push_to_hub("first") == "https://hub/me/mine"
    assert calls[:2] == [("token", "secret"), ("create", "me/mine", True, True)]
    assert calls[2][3] == "first" and {"README.md", "model.safetensors"} <= set(calls[2][2]) and "value_model" not in calls[2][2]
    assert "checkpoint.safetensors" not in calls[2][2]

    def refused(*arguments, **named):
        raise HfHubHTTPError("401 Unauthorized", response=type("R", (), {"headers": {}, "request": None, "status_code": 401})())

    monkeypatch.setattr(Api, "create_repo", refused)
    with pytest.raises(UserError, match="hub_model_id = 'me/mine': cannot be pushed .*hf auth login"):
        trainer.push_to_hub()
