"""The committed lock file belongs to the committed code and parameters."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def stale_stages(root: Path) -> list[str]:
    """Stages that `dvc repro` would run in a clone that has nothing but what git holds; at the first whose data are missing it stops."""
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--dry", "--allow-missing"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    running = re.findall(r"^Running stage '([^']+)'", done.stdout, flags=re.MULTILINE)
    missing = re.findall(r"failed to reproduce '([^']+)'", done.stderr)
    assert done.returncode == 0 or missing, done.stderr
    return list(dict.fromkeys(running + missing))


def test_lock_file_is_not_stale() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git clone")
    stale = stale_stages(ROOT)
    assert not stale, f"dvc.lock is older than {', '.join(stale)}: run `make repro` and commit dvc.lock with data/reports"


def test_a_changed_parameter_is_noticed(tmp_path: Path) -> None:
    """On a graph of one stage, by the same means."""
    (tmp_path / "dvc.yaml").write_text("stages:\n  copy:\n    cmd: cp in.txt out.txt\n    deps: [in.txt]\n    outs: [out.txt]\n")
    (tmp_path / "in.txt").write_text("1")
    for arguments in (["init", "--no-scm", "-q"], ["repro", "-q"]):
        subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=tmp_path, check=True)
    (tmp_path / "out.txt").unlink()
    assert stale_stages(tmp_path) == []
    (tmp_path / "in.txt").write_text("2")
    assert stale_stages(tmp_path) == ["copy"]
    (tmp_path / "in.txt").unlink()
    (tmp_path / "dvc.yaml").write_text((tmp_path / "dvc.yaml").read_text().replace("cp in", "cat in"))
    assert stale_stages(tmp_path) == ["copy"]  # its command is another, its data are not there
