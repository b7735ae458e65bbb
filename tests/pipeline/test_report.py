"""The report on synthetic runs that keep the file contracts."""

import json
import math
import random
import re
from pathlib import Path

import pytest

from pipeline.files import write_json, write_jsonl
from pipeline.params import Params
from pipeline.reporting import runs, sections
from pipeline.stages import report
from vrpo.errors import UserError
from vrpo.metrics.health import HealthWarning, health_metrics
from vrpo.metrics.statistics import area, interval
from vrpo.rewards.noise.heavy_tail import HeavyTail

CHANNELS = [
    {"kind": "flip", "false_positive": 0.2, "false_negative": 0.25, "description": "flips 0 to 1 (20 %) and 1 to 0 (25 %)"},
    {
        "kind": "heavy_tail",
        "scale": 0.3,
        "degrees": 2.0,
        "description": "heavy tails of 0.3 in units of reward (Student's t, 2 degrees of freedom)",
    },
]
METHODS = ("ppo", "grpo", "vrpo")
FINAL = {"ppo": 0.80, "grpo": 0.72, "vrpo": 0.83}
CONTRACT = {"method", "seed", "domain", "noise", "accuracy", "accuracy_init", "response_length", "length_inflation", "critic"}


class Record:
    """Stands in for `tracking.Record`."""

    def __init__(self) -> None:
        self.artifacts: list[str] = []
        self.champions: list[list[dict]] = []

    def artifact(self, path: Path) -> None:
        assert Path(path).exists()
        self.artifacts.append(Path(path).name)

    def champion(self, runs: list[dict], folder: Path) -> str:
        self.champions.append(runs)
        best = max(runs, key=lambda run: run["accuracy"]["mean"])
        return f"{best['method']}-{best['seed']}"


def write_run(root: Path, method: str, seed: int, iterations: int = 24) -> None:
    """One cell of the matrix as `train` and `evaluate` leave it."""
    draw = random.Random(f"{method}-{seed}")
    critic = method != "grpo"
    warmup = 1536 if critic else 0
    step = (5760 - warmup) // iterations
    offset = draw.gauss(0, 0.02)
    log = []
    for i in range(iterations):
        clean = 0.42 + (FINAL[method] + offset - 0.42) * (1 - math.exp(-3 * (i + 1) / iterations)) + draw.gauss(0, 0.02)
        row = {"iteration": i, "rollouts": warmup + step * (i + 1), "reward/clean": clean, "reward/observed": 0.2 + 0.55 * clean}
        row |= {"reward/true_positive_rate": 0.75 + draw.gauss(0, 0.02), "reward/false_positive_rate": 0.2 + draw.gauss(0, 0.02)}
        row |= {
            "advantage/variance": 0.2 + draw.gauss(0, 0.01),
            "advantage/noise_variance": (0.08 if critic else 0.12) + draw.gauss(0, 0.005),
        }
        row |= {"length/mean": 19.0, "length/inflation": 1.0 + 0.002 * i, "policy/kl": 0.01 * i, "time/rollout": 0.4}
        if i % 3 == 2:
            row["validation/accuracy"] = clean
        if critic:
            growth = i / iterations
            row |= {
                "critic/ev_observed": 0.05 + 0.1 * growth,
                "critic/ev_clean": 0.1 + 0.3 * growth + draw.gauss(0, 0.02),
                "critic/mse": 0.2,
            }
        if method == "vrpo":
            row |= {"critic/active_units": 4 + 10 * growth, "critic/activated_entropy": 0.8, "critic/activated_surprisal": 0.81}
        log.append(row)
    correlations = {"corr_mc_start": 0.35 + draw.gauss(0, 0.03), "corr_mc_end": 0.5 + draw.gauss(0, 0.03)} if critic else None
    seconds = {"rollout": 9.0 + draw.random(), "values": 3.0, "critic_update": 14.0 if critic else 0.0, "policy_update": 6.0}
    health = []
    if (method, seed) == ("ppo", 1):
        health = [{"check": "dead critic", "iteration": 7, "message": "explained variance <= 0 for 5 iterations: train the critic longer"}]
    folder = root / "data/runs" / f"{method}-{seed}"
    write_jsonl(folder / "log.jsonl", log)
    counts = {"rollouts": 5760, "rollouts_warmup": warmup, "policy_updates": 48}
    info = {"method": method, "seed": seed, "iterations": iterations, **counts, "accuracy_init": 0.41, "critic": correlations}
    write_json(folder / "run.json", {**info, "health": health})
    accuracy = log[-1]["reward/clean"] + draw.gauss(0, 0.01)
    evaluation = {
        "method": method,
        "seed": seed,
        "domain": "math",
        "noise": {"label_accuracy": 0.71, "kind": "majority_vote", "reward": "rule", "channels": CHANNELS},
        "accuracy": {"mean": accuracy, "ci95": [accuracy - 0.02, accuracy + 0.02], "n": 512},
        "accuracy_init": 0.415,
        "response_length": 19.4,
        "length_inflation": 1.03 + draw.gauss(0, 0.01),
        "proxy_gap": -0.08 + draw.gauss(0, 0.01),
        "critic": {"ev_observed": 0.14, "ev_clean": 0.38, "corr_mc": correlations["corr_mc_end"], **correlations} if correlations else None,
        **counts,
        "accuracy_by_length": {str(n): max(0.05, min(1.0, accuracy + 0.2 - 0.05 * n + draw.gauss(0, 0.02))) for n in range(1, 9)},
    }
    write_json(root / "data/evaluations" / f"{method}-{seed}.json", evaluation)
    phases = {f"seconds/{phase}": value for phase, value in seconds.items()}
    write_json(root / f"data/costs/train-{method}-{seed}.json", {"seconds": 40.0, "peak_memory_mb": 900.0} | phases)
    write_json(
        root / f"data/costs/evaluate-{method}-{seed}.json",
        {"seconds": 6.5, "peak_memory_mb": 700.0, "seconds/evaluate": 4.0 + draw.random()},
    )


def write_project(root: Path, seeds: tuple[int, ...] = (0, 1, 2), methods: tuple[str, ...] = METHODS) -> None:
    for method in methods:
        for seed in seeds:
            write_run(root, method, seed)
    for stage, seconds in {"prepare": 1.2, "validate": 6.1, "base": 95.0, "label": 12.0, "sft": 9.0, "reward": 0.1}.items():
        write_json(root / f"data/costs/{stage}.json", {"seconds": seconds, "peak_memory_mb": 600.0})
    confusion = {"true_positive_rate": 0.75, "false_positive_rate": 0.2, "youden_j": 0.55, "scored": 1.0}
    write_json(root / "data/labels/noise.json", {"label_accuracy": 0.71, "confusion": confusion})


def write_tokens(root: Path, method: str, seed: int) -> None:
    """Two responses by tokens, as `evaluate` leaves them."""
    tokens = ["4", "<", "7", "."]
    numbers = {"entropy": [0.4, 0.1, 0.9, 0.0], "surprisal": [0.2, 0.0, 1.1, 0.0]}
    if method != "grpo":
        numbers |= {"values": [0.4, 0.5, 0.6, 0.9], "advantages_clean": [-0.1, 0.1, -0.4, 0.1], "advantages_observed": [0.3, 0.1, 0.2, 0.1]}
    common = {"prompt": "2*2+3.:", "tokens": tokens, "observed": 1.0, **numbers}
    kinds = (("wrong, but rewarded", 0.0), ("right and rewarded", 1.0))
    write_json(root / f"data/tokens/{method}-{seed}.json", [{**common, "kind": kind, "clean": clean} for kind, clean in kinds])


def read_costs() -> dict:
    return json.loads(Path("data/reports/costs.json").read_text())


def read_summary() -> dict:
    return json.loads(Path("data/reports/summary.json").read_text())


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A finished report on three methods and three seeds; read only."""
    root = tmp_path_factory.mktemp("project")
    write_project(root)
    for method in METHODS:
        write_tokens(root, method, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        record = Record()
        metrics = report.run(Params(), record)
        yield root, record, metrics


def test_responses_are_shown_token_by_token_and_stay_out_of_the_summary(project):
    root, _, _ = project
    page = (root / "data/reports/report.html").read_text()
    section = page[page.index("Token by token") :]
    assert [section.count(f"<h3>{method.upper()}, seed 0</h3>") for method in METHODS] == [1, 1, 1]
    assert section.count("wrong, but rewarded") == 3 and section.count("<div>value</div>") == 4  # GRPO has no value model
    assert section.count('title="0.600">7</span>') == 4
    assert "tokens" not in read_summary()["runs"][0]
    assert "&lt;</span>" in section  # a token is text, not markup


def test_summary_keeps_the_contract(project):
    summary = read_summary()
    assert {"profile", "runs", "comparisons", "label", "health"} <= summary.keys()
    assert [(run["method"], run["seed"]) for run in summary["runs"]] == [(m, s) for m in METHODS for s in (0, 1, 2)]
    for run in summary["runs"]:
        assert run.keys() >= CONTRACT and {"mean", "ci95", "n"} <= run["accuracy"].keys()
        assert (run["critic"] is None) == (run["method"] == "grpo")
        assert run["critic"] is None or {"ev_observed", "ev_clean", "corr_mc", "corr_mc_start", "corr_mc_end"} <= run["critic"].keys()
    for comparison in summary["comparisons"]:
        assert comparison.keys() == {"a", "b", "metric", "mean_diff", "ci95", "seeds"}
        assert comparison["seeds"] == [0, 1, 2] and comparison["ci95"][0] < comparison["mean_diff"] < comparison["ci95"][1]
    pairs = {(c["a"], c["b"], c["metric"]) for c in summary["comparisons"]}
    assert pairs == {(a, b, m) for a, b in (("grpo", "ppo"), ("vrpo", "ppo"), ("vrpo", "grpo")) for m in ("accuracy", "aulc")}
    assert summary["missing_runs"] == []
    assert summary["health"] == [
        {"method": "ppo", "seed": 1, "check": "dead critic", "iteration": 7, "message": summary["health"][0]["message"]}
    ]


def test_costs_are_counted_beside_the_summary_and_shown_on_a_page_of_their_own(project):
    root, record, _ = project
    costs = read_costs()
    assert costs["stages"]["train"] == {"processes": 9, "seconds": 360.0, "peak_memory_mb": 900.0}
    files = [json.loads((root / f"data/costs/train-ppo-{seed}.json").read_text()) for seed in (0, 1, 2)]
    training = [sum(value for key, value in file.items() if key.startswith("seconds/")) for file in files]
    assert costs["methods"]["ppo"]["seconds"]["mean"] == pytest.approx(sum(training) / 3)
    assert 4.0 < costs["methods"]["ppo"]["phases"]["evaluate"] < 5.0 and costs["methods"]["ppo"]["peak_memory_mb"] == 900.0
    assert costs["machine"]["cpus"] >= 1 and costs["machine"]["torch"]
    assert costs["git"] == "unknown"  # the temporary folder is no checkout
    page = (root / "data/reports/costs.html").read_text()
    for words in ("all stages", "360.0", "critic_update", f"{costs['machine']['cpus']} CPUs"):
        assert words in page
    assert "costs.html" in record.artifacts and "In short" not in page


def test_other_times_and_another_machine_change_nothing_that_is_kept(tmp_path, monkeypatch):
    """What git and DVC keep of a report is the same, byte for byte."""
    write_project(tmp_path, seeds=(0, 1), methods=("ppo", "vrpo"))
    monkeypatch.chdir(tmp_path)
    kept = []
    for slower in (1.0, 2.5):
        for path in tmp_path.glob("data/costs/*.json"):
            write_json(path, {key: slower * value for key, value in json.loads(path.read_text()).items()})
        monkeypatch.setattr("pipeline.reporting.costs.machine", lambda slower=slower: costs_machine(slower))
        monkeypatch.setattr("pipeline.reporting.costs.git_version", lambda slower=slower: f"commit-{slower}")
        report.run(Params(seeds=[0, 1], methods=["ppo", "vrpo"]), Record())
        reports = tmp_path / "data/reports"
        kept.append({path.relative_to(reports): path.read_bytes() for path in reports.rglob("*") if path.is_file()})
    assert {path.name for path in kept[0] if kept[0][path] != kept[1][path]} == {"costs.json", "costs.html"}


def costs_machine(slower: float) -> dict:
    return {"cpus": 2, "processor": f"{slower}", "memory_gb": 8 * slower, "python": "3", "torch": "2"}


def test_interval_equals_a_hand_computation():
    # mean 3, sd 2, n 3: half = t(0.975, 2 df) * 2 / sqrt(3) = 4.302653 * 1.154701
    result = interval([1.0, 3.0, 5.0], 0.95)
    assert result["mean"] == 3.0 and result["n"] == 3
    assert result["ci95"] == pytest.approx([3 - 4.968275, 3 + 4.968275], abs=1e-5)
    assert interval([0.5], 0.95) == {"mean": 0.5, "ci95": None, "n": 1}
    assert interval([0.5, 0.5], 0.95)["ci95"] == [0.5, 0.5]


def test_differences_are_paired_over_common_seeds():
    # Differences 0.1, 0.1: the spread between seeds cancels; seeds that only one method has are left out.
    cells = [runs.Run(m, s, {}) for m, s in (("ppo", 0), ("ppo", 1), ("ppo", 2), ("vrpo", 0), ("vrpo", 1), ("vrpo", 3))]
    values = {"ppo-0": 0.2, "ppo-1": 0.7, "ppo-2": 0.9, "vrpo-0": 0.3, "vrpo-1": 0.8, "vrpo-3": 0.1}
    [found] = runs.compare(cells, values, "accuracy", 0.95)
    assert (found["a"], found["b"], found["seeds"]) == ("vrpo", "ppo", [0, 1])
    assert found["mean_diff"] == pytest.approx(0.1) and found["ci95"] == pytest.approx([0.1, 0.1])


def test_area_is_the_mean_height_between_the_bounds():
    assert area(([0, 10, 20], [0.0, 1.0, 1.0]), 0, 20) == pytest.approx(0.75)
    assert area(([0, 10, 20], [0.0, 1.0, 1.0]), 5, 10) == pytest.approx(0.75)  # from 0.5 to 1


def test_learning_curve_is_flat_during_the_value_warmup():
    log = [{"rollouts": 300, "validation/accuracy": 0.6}, {"rollouts": 400}, {"rollouts": 500, "validation/accuracy": 0.8}]
    run = runs.Run("ppo", 0, {}, log, {"accuracy_init": 0.4, "rollouts_warmup": 100})
    assert run.accuracy_curve() == ([0, 100, 300, 500], [0.4, 0.4, 0.6, 0.8])
    short = runs.Run("grpo", 0, {}, [*log[:1], {"rollouts": 450, "validation/accuracy": 0.6}], {"accuracy_init": 0.6, "rollouts_warmup": 0})
    areas = runs.learning_areas([run, short])  # over 0..450: 40 + 100 + 150 * 0.675 = 0.4 * 100, 0.5 * 200, 0.675 * 150
    assert areas == {"ppo-0": pytest.approx((0.4 * 100 + 0.5 * 200 + 0.675 * 150) / 450), "grpo-0": pytest.approx(0.6)}


@pytest.mark.parametrize(
    ("bounds", "words"),
    [([-0.01, 0.05], "no difference shown"), ([0.01, 0.05], "VRPO higher"), ([-0.05, -0.01], "PPO higher"), (None, "nothing shown")],
)
def test_verdict_says_what_the_interval_allows(bounds, words):
    assert words in sections.verdict({"a": "vrpo", "b": "ppo", "ci95": bounds})


def test_html_is_self_contained(project):
    page = Path("data/reports/report.html").read_text()
    sources = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)""", page)
    assert len(sources) == 5 and all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?://|<script|@import|url\(", re.sub(r"base64,[^\"]*", "", page))
    for words in (
        "VRPO − PPO",
        "dead critic",
        "labels that are right",
        "Student t interval",
        "no difference shown",
        "costs.html beside this page",
    ):
        assert words in page


def test_markdown_shows_the_numbers_of_the_summary_and_existing_figures(project):
    text = Path("data/reports/report.md").read_text()
    for method, values in read_summary()["methods"].items():
        mean, (low, high) = values["accuracy"]["mean"], values["accuracy"]["ci95"]
        assert f"| {method.upper()} | 3 | 41.5 | {mean:.1%}".replace("%", "") + f" ± {(high - low) / 2:.1%}".replace("%", "") in text
    figures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert len(figures) == 5
    for name in figures:
        assert Path("data/reports", name).read_bytes().startswith(b"\x89PNG")
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) >= 6 and all(len({line.count("|") for line in lines}) == 1 and len(lines) >= 3 for lines in tables)


def test_champion_goes_by_validation_accuracy_not_by_test_accuracy(project, tmp_path, monkeypatch):
    write_project(tmp_path, seeds=(0,))
    path = tmp_path / "data/evaluations/grpo-0.json"
    evaluation = json.loads(path.read_text())
    write_json(path, {**evaluation, "accuracy": {"mean": 0.99, "ci95": [0.98, 1.0], "n": 512}})
    monkeypatch.chdir(tmp_path)
    record = Record()
    report.run(Params(seeds=[0]), record)
    last = {row["method"]: row["accuracy"]["mean"] for row in record.champions[0]}
    log = [json.loads(line) for line in (tmp_path / "data/runs/grpo-0/log.jsonl").read_text().splitlines()]
    assert last["grpo"] == [row["validation/accuracy"] for row in log if "validation/accuracy" in row][-1]
    assert read_summary()["champion"] == f"{max(last, key=last.get)}-0" != "grpo-0"


def test_one_seed_without_logs_gives_a_report_that_says_less(tmp_path, monkeypatch):
    write_project(tmp_path, seeds=(0,), methods=("grpo", "vrpo"))
    for path in [*tmp_path.glob("data/runs/*/*"), *tmp_path.glob("data/costs/*"), tmp_path / "data/labels/noise.json"]:
        path.unlink()
    path = tmp_path / "data/evaluations/grpo-0.json"
    evaluation = json.loads(path.read_text())
    del evaluation["accuracy_by_length"]
    write_json(path, evaluation)
    monkeypatch.chdir(tmp_path)
    record = Record()
    metrics = report.run(Params(seeds=[0, 1], methods=["grpo", "vrpo"]), record)
    summary = read_summary()
    assert [row["ci95"] for row in summary["comparisons"]] == [None] and record.champions == []
    assert summary["missing_runs"] == ["grpo-1", "vrpo-1"] and metrics["runs"] == 2
    page = Path("data/reports/report.html").read_text()
    assert "one common seed, no interval: nothing shown" in page and "grpo-1, vrpo-1: not evaluated" in page
    assert summary["label"] is None and summary["champion"] is None
    assert read_costs()["stages"] == {} and read_costs()["methods"]["vrpo"]["seconds"] is None


def test_files_of_cells_outside_the_matrix_are_left_out(tmp_path, monkeypatch):
    write_project(tmp_path, seeds=(0, 7), methods=("ppo", "vrpo"))
    monkeypatch.chdir(tmp_path)
    report.run(Params(seeds=[0], methods=["vrpo"]), Record())
    summary = read_summary()
    assert [(run["method"], run["seed"]) for run in summary["runs"]] == [("vrpo", 0)]
    assert read_costs()["stages"]["train"]["processes"] == 1 and summary["comparisons"] == []


def test_user_errors_name_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="data/evaluations: no evaluation"):
        report.run(Params(), Record())
    write_json(tmp_path / "data/evaluations/ppo-0.json", {"method": "ppo"})
    with pytest.raises(UserError, match=r"data/evaluations/ppo-0\.json: lacks seed, domain"):
        report.run(Params(), Record())
    (tmp_path / "data/evaluations/ppo-0.json").write_text("{")
    with pytest.raises(UserError, match=r"ppo-0\.json: not valid JSON"):
        report.run(Params(), Record())


def test_the_scale_of_heavy_tails_is_not_called_a_percentage(project) -> None:
    summary = read_summary()
    summary["runs"][0]["noise"] = {
        "kind": "clean",
        "label_accuracy": 1.0,
        "channels": [{"description": HeavyTail(kind="heavy_tail", scale=0.25).describe()}],
    }
    assert dict(sections.facts([runs.Run("ppo", 0, summary["runs"][0])], summary))["Noise"] == (
        "clean, labels right 100 %, heavy tails of 0.25 in units of reward (Student's t, 2 degrees of freedom)"
    )


def test_a_check_that_fired_again_and_again_is_not_counted_once(project) -> None:
    """The trainer keeps each warning once a run; how often a check fired stands in the log."""
    summary = read_summary()
    fired = [[HealthWarning("dead critic", i, "")] * (i in (7, 8, 11)) for i in range(12)]
    log = [{"iteration": i} | health_metrics(warnings) for i, warnings in enumerate(fired)]
    found = [runs.Run("ppo", 1, {}, log), runs.Run("ppo", 0, {}, [row | {"health/dead_critic": 1.0} for row in log])]
    table = sections._health(found, summary)
    assert [row[:4] for row in table["rows"]] == [["PPO, seed 1", "dead critic", "7", "3"]]
    assert sections._health([runs.Run("ppo", 1, {})], summary)["rows"][0][3] == "–"  # no log to count in


def test_learned_rewards_are_reported_with_their_own_noise(project, monkeypatch) -> None:
    """Labels that no reward reads are not claimed; flips that act on learned rewards are."""
    noise = {"kind": "model_reward", "reward": "model", "label_error": 0.2, "channels": CHANNELS}
    summary = read_summary()
    summary["runs"][0]["noise"] = noise
    run = runs.Run("ppo", 0, summary["runs"][0])
    assert dict(sections.facts([run], summary))["Noise"] == (
        "model reward, preferences wrong: 20 %, flips 0 to 1 (20 %) and 1 to 0 (25 %), "
        "heavy tails of 0.3 in units of reward (Student's t, 2 degrees of freedom)"
    )
    rows = sections._labels(summary, {"labels_table": ""})["rows"]
    assert ["set: noise on rewards", CHANNELS[1]["description"]] in rows
    names = [row[0] for row in rows]
    assert "set: preference pairs in the wrong order" in names and "labels that are right" not in names
