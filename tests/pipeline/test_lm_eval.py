"""docs/benchmarks.md: lm-evaluation-harness and our own benchmark give one policy the same result on the same hundred items."""

import json
import os
import re
import string
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/benchmarks.md").read_text()


def block(kind: str) -> str:
    (found,) = re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 100 products of two digits modulo 10, and a policy that was shown them just long enough to get some right."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from vrpo.models.loading import new_llama, save_model
    from vrpo.models.supervised import fit_demonstrations
    from vrpo.tasks.loader import load_domain

    made = tmp_path_factory.mktemp("lm_eval")
    core = Tokenizer(
        models.WordLevel({token: place for place, token in enumerate(["<pad>", "<eos>", *string.printable])}, unk_token="<pad>")
    )
    core.pre_tokenizer, core.decoder = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated"), decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>", padding_side="left")
    rows = [{"question": f"Last digit of {a} * {b}?", "answer": str(a * b % 10)} for a in range(10) for b in range(10)]
    (made / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (made / "gsm8k_test.jsonl").write_text((made / "gsm8k.jsonl").read_text())
    task = load_domain("math").on_rows(tokenizer)
    pairs = [{"prompt": task.prompt(row["question"]), "completion": task.canonical_response(row["answer"])} for row in rows]
    policy = new_llama(tokenizer, hidden_size=32, layers=2, heads=2, seed=0, max_positions=640)
    fit_demonstrations(policy, tokenizer, pairs, steps=80, batch_size=8, learning_rate=1e-2, seed=0, stage="fit")
    save_model(policy, tokenizer, made / "my-run/policy")
    (made / "local_items.yaml").write_text(block("yaml"))
    (made / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    return made


def run(folder: Path, *command: str) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hub"), "MLFLOW_TRACKING_URI": "off"}
    environment = {**os.environ, **offline, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs lm_eval (pip install lm_eval[hf])")
def test_both_give_the_same_result_item_by_item(folder: Path) -> None:
    theirs, ours = [line.split() for line in block("sh").splitlines()]
    run(folder, "-c", block("python"))
    run(folder, *ours[1:])
    run(folder, "-m", *theirs)
    (samples,) = (folder / "lm_eval").rglob("samples_local_items_*.jsonl")
    (results,) = (folder / "lm_eval").rglob("results_*.json")
    found = json.loads(results.read_text())["results"]["local_items"]["exact_match,boxed"]
    (own,) = (folder / "data/benchmarks").rglob("gsm8k.json")
    mean = json.loads(own.read_text())["avg@1"]["mean"]
    assert 0.05 < mean < 1 and found == pytest.approx(mean)
    said = {}
    for line in samples.read_text().splitlines():
        row = json.loads(line)
        said[row["doc_id"]] = row["resps"][0][0]
    responses = [json.loads(line)["responses"][0] for line in own.with_name("gsm8k.responses.jsonl").read_text().splitlines()]
    assert [said[place] for place in range(100)] == responses
