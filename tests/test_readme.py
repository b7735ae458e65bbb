"""The README's example, run as it stands on a tiny model."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_examples_train_vrpo_on_ones_own_reward_and_score_texts(tmp_path) -> None:
    from vrpo.models import new_llama, save_model
    from vrpo.tasks.chain import new_tokenizer

    tokenizer = new_tokenizer()
    save_model(new_llama(tokenizer, hidden_size=16, layers=1, heads=2, seed=0), tokenizer, tmp_path / "data/models/sft")
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    code = "\n".join([f"import sys; sys.path.insert(0, {str(ROOT)!r})", *examples])
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "my-run/value_model/value_head.safetensors").is_file() and (tmp_path / "my-run/policy/model.safetensors").is_file()
    assert [len(line.split("[")[1].split(",")) for line in done.stdout.splitlines() if line.startswith("3+4")] == [5, 6]


def test_files_named_in_the_map_exist() -> None:
    block = re.search(r"## Where things are\n\n```\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL).group(1)
    names = re.findall(r"\b\w+\.(?:py|yaml)\b", block)
    assert len(names) > 20
    assert [
        name for name in names if not (list((ROOT / "vrpo").rglob(name)) or list(ROOT.glob(name)) or list(ROOT.glob(f"*/{name}")))
    ] == []
