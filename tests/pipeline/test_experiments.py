"""`make experiments`: a table that fits a terminal and has what people compare."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
METHODS = ("ppo", "grpo", "vrpo", "regulated_gradient")
GRAPH = """
stages:
  params: {cmd: cp params.yaml data/params.yaml, deps: [params.yaml], outs: [data/params.yaml: {cache: false}]}
  report:
    cmd: python report.py
    deps: [report.py]
    params: [data/params.yaml: [train]]
    metrics: [data/metrics/report.json, data/reports/summary.json: {cache: false}]
"""
REPORT = f"""
import json, os, yaml
lam = yaml.safe_load(open("data/params.yaml"))["train"]["gae_lambda"]
rows = {{name: 0.5 + lam / (7 + place) for place, name in enumerate({METHODS})}}
metrics = {{"runs": 12, **{{f"accuracy/{{name}}": value for name, value in rows.items()}}, "accuracy/grpo_minus_ppo": lam, "aulc/grpo_minus_ppo": lam}}
for folder in ("metrics", "reports"):
    os.makedirs(f"data/{{folder}}", exist_ok=True)
json.dump(metrics, open("data/metrics/report.json", "w"))
methods = {{name: {{key: {{"mean": value, "n": 3}} for key in ("accuracy", "aulc", "proxy_gap")}} for name, value in rows.items()}}
json.dump({{"profile": "tiny", "methods": methods}}, open("data/reports/summary.json", "w"))
"""


def recipe() -> list[str]:
    """The command of the target, without make's own signs."""
    (line,) = re.findall(r"^experiments:.*\n\t@dvc (.*)$", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE)
    return shlex.split(line)


def test_the_table_has_what_was_changed_and_accuracies_and_fits(tmp_path: Path) -> None:
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1", "COLUMNS": "300"}
    environment |= {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    (tmp_path / "data").mkdir()
    for name, text in {"dvc.yaml": GRAPH, "report.py": REPORT, ".gitignore": "/data/metrics/\n"}.items():
        (tmp_path / name).write_text(text)
    values = {"train": {"gae_lambda": 0.0, "gamma": 1.0}, "domains": {"science": {"label": {"votes": 4}}}}
    (tmp_path / "params.yaml").write_text(json.dumps(values))
    dvc = (sys.executable, "-m", "dvc")
    run("git", "init", "-q")
    run(*dvc, "init", "-q")
    run(*dvc, "repro", "-q")
    run("git", "add", "-A")
    run("git", "commit", "-qm", "results")
    run(*dvc, "exp", "run", "-q", "-n", "lambda-80", "-S", "train.gae_lambda=0.8")
    table = run(*dvc, *recipe())
    for words in ("lambda-80", "params.yaml:train.gae_lambda", *(f"accuracy/{name}" for name in METHODS)):
        assert words in table
    for words in ("_minus_", "summary", "methods.", "data/params", "gamma", "votes", "Created"):
        assert words not in table
    assert max(map(len, table.splitlines())) <= 140
