"""Studies: cells are expanded, shared, resumed and counted rightly; tables say what the cells hold."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import psutil
import pytest
import yaml

from pipeline import domains, graph
from pipeline.environment import prefect_environment
from pipeline.files import read_jsonl, write_json
from pipeline.stages import critic
from pipeline.study import cells as study
from pipeline.study import file as study_file
from pipeline.study import report as study_report
from pipeline.study import results as study_results
from pipeline.study import run as study_run
from pipeline.tracking import record as tracking
from pipeline.tracking.file import read_events
from pipeline.workspace import Workspace
from vrpo.errors import UserError

ROOT = Path(__file__).parents[2]
DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
NOISES = {
    "clean": {"label": {"source": "clean"}, "noise": []},
    "flip": {"label": {"source": "clean"}, "noise": [{"kind": "flip", "false_positive": 0.2}]},
}
METHODS = {"reinforce": {"method": "reinforce"}, "oracle": {"method": "oracle"}}
RESULTS = dict.fromkeys(study_results.NEEDED["run"], 0)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with the mini profile's parameters and a study of two tables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    return furnished(tmp_path)


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """Such a folder in which the study has run, in three goes; and the lines that the first one wrote."""
    with pytest.MonkeyPatch.context() as patch:
        home = furnished(tmp_path_factory.mktemp("studied"))
        patch.chdir(home)
        patch.setenv("MLFLOW_TRACKING_URI", "off")
        assert study_run.run(Path("small.yaml"), jobs=1, minutes=10, tables=["critics"]) == 0
        first = [json.loads(line) for line in (home / "data/reports/study/small.jsonl").read_text().splitlines()]
        assert study_run.run(Path("small.yaml"), jobs=2, minutes=0, tables=[]) == 0  # no time: nothing starts
        assert len((home / "data/reports/study/small.jsonl").read_text().splitlines()) == 2
        assert study_run.run(Path("small.yaml"), jobs=2, minutes=10, tables=[]) == 0
        return home, first


def furnished(folder: Path) -> Path:
    params = (ROOT / "params.yaml").read_text().replace("profile: tiny", "profile: mini", 1)
    (folder / "params.yaml").write_text(params)
    tables = {
        "methods": {"seeds": [0, 1], "axes": {"noise": NOISES, "method": METHODS}, "pairs": [["oracle", "reinforce"]]},
        "critics": {"kind": "critic", "seeds": [0], "axes": {"critic": {"depth 1": {"method": "vrpo"}, "plain": {"method": "ppo"}}}},
    }
    (folder / "small.yaml").write_text(yaml.safe_dump({"description": "two tables", "tables": tables}, sort_keys=False))
    return folder


def line_of(cell: study_file.Cell) -> dict:
    """A finished cell's line."""
    params = cell.params.model_dump(exclude=study_file.UNDECIDED)
    return RESULTS | {"kind": cell.kind, "method": cell.method, "seed": cell.seed, "params": params}


def counted(*lines: dict, cold_start: float = 0.0) -> set[str]:
    """Keys of the lines that count, if these are the ones that the study has."""
    study_results.REPORTS.mkdir(parents=True, exist_ok=True)
    (study_results.REPORTS / "small.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return set(study_results.finished(Path("small.yaml"), cold_start))


def test_cells_differ_in_their_axes_and_seed_every_model(home) -> None:
    _, cells = study_file.load_study(Path("small.yaml"))
    assert len(cells) == 10 and len({cell.key for cell in cells}) == 10
    assert {(cell.axes.get("noise"), cell.method, cell.seed) for cell in cells if cell.table == "methods"} == {
        (noise, method, seed) for noise in NOISES for method in METHODS for seed in (0, 1)
    }
    for cell in cells:
        assert {getattr(cell.params, section).seed for section in study_file.SEEDED} == {cell.seed}
    clean, flip = (next(c for c in cells if c.axes.get("noise") == noise and c.seed == 0) for noise in NOISES)
    for stage in study.shared():
        assert study.folder_of(stage, clean.params) == study.folder_of(stage, flip.params)  # noise acts on rewards, after all of them
    wrong = clean.params.model_copy(update={"label": clean.params.label.model_copy(update={"wrong_reference_rate": 0.1})})
    for stage in study.shared():
        assert (study.folder_of(stage, clean.params) != study.folder_of(stage, wrong)) == (stage == "label")


def test_results_outlive_parameters_that_came_later(home) -> None:
    _, (cell, *_) = study_file.load_study(Path("small.yaml"))
    line = line_of(cell)
    del line["params"]["train"]["critic"]["gae_lambda"]  # as if written before that existed
    assert counted(line) == {cell.key}
    line["params"]["train"]["critic"]["gae_lambda"] = 0.5
    assert cell.key not in counted(line)


def test_a_line_of_older_form_is_told_of_and_does_not_count(home, capsys) -> None:
    _, (cell, *_) = study_file.load_study(Path("small.yaml"))
    older = line_of(cell)
    older["params"]["label"] = {"false_positive_rate": 0.2}
    assert counted(line_of(cell), older) == {cell.key}
    said = "1 of 2 lines are of older code and do not count, e.g. 2: label.false_positive_rate: is now noise: [{kind: flip, false_positive: 0.2}]"
    assert said in capsys.readouterr().err


def test_every_line_of_the_committed_studies_counts(monkeypatch, capsys) -> None:
    monkeypatch.chdir(ROOT)
    total = 0
    for path in sorted(Path("pipeline/studies").glob("*.yaml")):
        file = ROOT / f"data/reports/study/{path.stem}.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        content, cells = study_file.load_study(path)
        assert len({cell.key for cell in cells} & study_results.finished(path, content.cold_start).keys()) == len(lines)
        total += len(lines)
    assert total > 900
    assert sum(file.stat().st_size for file in (ROOT / "data/reports/study").glob("*.jsonl")) < 10_000_000  # what git carries
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"params": {"label": {"prompt_flip_rate": 0.1}}},
            r"tables.methods: .*: label.prompt_flip_rate: is now noise: \[{kind: prompt_flip, rate: 0.1}\]",
        ),
        ({"axes": {"method": {"odd": {"train": {"iterationz": 3}}}}, "pairs": []}, "methods: method odd: train.iterationz: unknown key"),
        ({"axis": {}}, "tables.methods.axis: Extra inputs are not permitted"),
        ({"seeds": []}, "tables.methods.seeds: List should have at least 1 item"),
        ({"axes": {"method": ["ppo", "vrpo"]}}, "tables.methods.axes.method: Input should be a valid dictionary"),
        (
            {"pairs": [["oracle", "reinforc"]]},
            "tables.methods: .*unknown value of method, the last axis, 'reinforc'; use reinforce, oracle",
        ),
        ({"reference": ["flip", "oracle"]}, "tables.methods: .*unknown value of method, the last axis, 'flip'"),
        ({"metrics": ["accuracy", "bets"]}, "tables.methods: .*unknown metric, 'bets'; use accuracy, "),
    ],
)
def test_mistakes_in_a_study_name_their_place(home, change, message) -> None:
    broken = yaml.safe_load(Path("small.yaml").read_text())
    broken["tables"]["methods"] |= change
    Path("broken.yaml").write_text(yaml.safe_dump(broken, sort_keys=False))
    with pytest.raises(UserError, match=message):
        study_file.load_study(Path("broken.yaml"))


@pytest.mark.parametrize(
    ("text", "message"), [("- 1", "the file: "), ("description: x", "tables: Field required"), ("{", "cannot be read")]
)
def test_what_is_no_study_is_refused(home, text, message) -> None:
    Path("broken.yaml").write_text(text)
    with pytest.raises(UserError, match=f"broken.yaml: {message}"):
        study_file.load_study(Path("broken.yaml"))


def test_an_unknown_table_is_refused_before_any_work(home) -> None:
    with pytest.raises(UserError, match="--table critic: not in small.yaml; use methods, critics"):
        study_run.run(Path("small.yaml"), jobs=1, minutes=1, tables=["critic"])
    assert not (home / "data").exists()


def test_a_study_runs_resumes_and_reports(studied, monkeypatch) -> None:
    home, first = studied
    monkeypatch.chdir(home)
    assert [line["kind"] for line in first] == ["critic"] * 2
    assert {line["commit"] for line in first} == {tracking.code_version()}
    lines = [json.loads(line) for line in (home / "data/reports/study/small.jsonl").read_text().splitlines()]
    assert lines[:2] == first and len(lines) == 10
    assert {path.name.partition("-")[0] for path in (home / "data/study").iterdir()} == set(study.shared())

    records = [read_events(path) for path in (home / "data/tracking/small").glob("*.jsonl")]
    assert len(records) == 10
    for events in records:
        assert (events[0]["tags"]["study"], events[-1]["status"]) == ("small", "FINISHED")
        assert not [event for event in events if event["event"] == "model"]
        assert all(
            (home / event["path"]).is_file() for event in events if event["event"] == "dataset" and not Path(event["path"]).is_absolute()
        )
        if events[0]["tags"]["stage"] == "train":
            method = events[0]["tags"]["method"]
            assert method in events[0]["name"] and {"flip", "clean"} & set(events[0]["name"].split(", "))
            assert any("test/accuracy" in event.get("values", {}) for event in events)

    study_report.write(Path("small.yaml"))
    report = json.loads((home / "data/reports/study/small.json").read_text())["tables"]["methods"]
    assert report["finished"] == report["cells"] == 8
    for row in report["rows"]:
        noise, method = row["axes"]
        own = [line for line in lines if line["kind"] == "run" and line["method"] == method]
        own = [line for line in own if bool(line["noise"]["channels"]) == (noise == "flip")]
        accuracies = [line["accuracy"]["mean"] for line in own]
        assert row["metrics"]["accuracy"]["mean"] == pytest.approx(sum(accuracies) / 2) and sorted(row["seeds"]) == sorted(accuracies)
        last = sum(line["log"]["validation/accuracy"][-1] for line in own) / 2
        assert (row["curve"]["rollouts"][-1], row["curve"]["accuracy"][-1]) == (own[0]["rollouts"], pytest.approx(last, abs=1e-4))
    assert "oracle - reinforce" in (home / "data/reports/study/small.md").read_text()
    assert (home / "data/reports/study/small_methods.png").stat().st_size > 5000


def test_the_critic_bench_holds_gradients_against_the_exact_one(studied, monkeypatch) -> None:
    home, first = studied
    monkeypatch.chdir(home)
    assert all(-1 <= line["gradient_cosine"] <= 1 for line in first)
    found = study_report.measures(first[0])
    assert (
        found["gradient_cosine"] == first[0]["gradient_cosine"]
        and found["rollouts"] == first[0]["params"]["train"]["critic"]["warmup_rollouts"]
    )
    assert found["critic_seconds"] == first[0]["seconds"]["values"] + found["seconds"]

    _, cells = study_file.load_study(Path("small.yaml"))
    params = cells[0].params
    place, record = study.workspace(home / "bench", study.read_by_cells(), params), study.CellRecord(home / "bench/record.jsonl", {})
    line = {"kind": "critic", **critic.run(params, "reinforce", 0, record, place)}  # no critic: of the gradient alone
    assert study_report.measures(line) == {"gradient_cosine": line["gradient_cosine"], "rollouts": 0}

    monkeypatch.setattr(domains, "load_oracle", lambda params, tokenizer: None)
    assert "gradient_cosine" not in critic.run(params, "ppo", 0, record, place)
    with pytest.raises(
        UserError, match="--method reinforce: has no value model to try, and nobody knows this task's values; use ppo or vrpo"
    ):
        critic.run(params, "reinforce", 0, record, place)


def test_seeds_with_a_poor_cold_start_are_left_out_and_named(home) -> None:
    small = yaml.safe_load(Path("small.yaml").read_text())
    del small["tables"]["critics"]
    Path("small.yaml").write_text(yaml.safe_dump(small | {"cold_start": 0.4}, sort_keys=False))
    _, cells = study_file.load_study(Path("small.yaml"))
    run = {"accuracy": {"mean": 0.9}, "critic": None, "length_inflation": 1.0, "rollouts": 9, "seconds": {"update": 1.0}}
    run |= {"log": {"validation/accuracy": [0.5, 0.9], "rollouts": [1, 9]}, "accuracy_init": 0.5}
    poor = {"accuracy_init": 0.3}
    counted(*({k: v for k, v in line_of(cell).items() if k not in RESULTS} | poor if cell.seed else line_of(cell) | run for cell in cells))
    study_report.write(Path("small.yaml"))
    table = json.loads((home / "data/reports/study/small.json").read_text())["tables"]["methods"]
    assert table["left_out"] == {"1": 0.3} and table["cells"] == table["finished"] == 4 and table["seeds"] == 1
    assert all(row["metrics"]["accuracy"]["n"] == 1 for row in table["rows"])
    assert "seed 1 (30 %)" in (home / "data/reports/study/small.md").read_text()


def test_a_cell_on_a_poor_cold_start_is_not_trained(home) -> None:
    cell = study_file.load_study(Path("small.yaml"))[1][0]
    for stage in ("label", "sft", "reward"):
        write_json(home / study.folder_of(stage, cell.params) / study.METRICS, {"accuracy": 0.2})
    line = study.run_cell(replace(cell, cold_start=0.3))  # there is no model to train on
    assert line["accuracy_init"] == 0.2 and "accuracy" not in line


DASK = """
import json
from pathlib import Path
from prefect.testing.utilities import prefect_test_harness
from prefect_dask import DaskTaskRunner
from pipeline.orchestration.flows import cells, local_cluster
with prefect_test_harness(server_startup_timeout=180):
    assert cells.with_options(task_runner=DaskTaskRunner(cluster_kwargs=local_cluster(2)))("dask.yaml", 10, 2, []) == 0
"""


def test_two_dask_workers_come_to_the_numbers_of_one_process(studied, home) -> None:
    """In a process of its own, as Prefect reads its settings when it is imported; on what the cells of the other study share."""
    content = yaml.safe_load(Path("small.yaml").read_text())
    content["tables"]["methods"] |= {"seeds": [0], "axes": {"noise": {"flip": NOISES["flip"]}, "method": METHODS}}
    del content["tables"]["critics"]
    Path("dask.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    shutil.copytree(studied[0] / "data/study", "data/study")
    environment = {**os.environ, **prefect_environment(home), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", DASK], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    dask, serial = results(home / "data/reports/study/dask.jsonl"), results(studied[0] / "data/reports/study/small.jsonl")
    assert len(dask) == 2 and dask == {name: serial[name] for name in dask}


def results(path: Path) -> dict[str, dict]:
    """A study's lines by what they are about."""
    return {json.dumps([line["method"], line["params"]]): steady(line) for line in map(json.loads, path.read_text().splitlines())}


def steady(line: dict) -> dict:
    """A line without what measures time or memory."""
    return {key: line[key] for key in line.keys() - {"seconds", "cell_seconds", "peak_memory_mb", "stages"}}


def test_a_stage_that_fails_is_named_and_leaves_the_rest(studied, home, capfd) -> None:
    shutil.copytree(studied[0] / "data/study", "data/study")
    broken = yaml.safe_load(Path("small.yaml").read_text())
    broken["tables"]["methods"] |= {"seeds": [0], "axes": {"method": METHODS | {"bad": {"base": {"source": "no-such-folder"}}}}}
    del broken["tables"]["critics"]
    Path("broken.yaml").write_text(yaml.safe_dump(broken, sort_keys=False))
    assert study_run.run(Path("broken.yaml"), jobs=2, minutes=10, tables=[]) == 1
    assert "no-such-folder" in capfd.readouterr().err
    assert len((home / "data/reports/study/broken.jsonl").read_text().splitlines()) == 2


def test_a_study_may_name_its_domain(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    (tmp_path / "s.yaml").write_text("domain: science\ntables: {t: {title: x, seeds: [0], axes: {method: {ppo: {method: ppo}}}}}")
    _, (cell,) = study_file.load_study(tmp_path / "s.yaml")
    assert cell.params.domain == "science"
    assert cell.params.label.votes == yaml.safe_load(Path("params.yaml").read_text())["domains"]["science"]["label"]["votes"]


def test_a_run_s_measures_tell_its_best_moment_and_its_collapse() -> None:
    log = {"validation/accuracy": [0.4, None, 0.9, None, 0.7], "rollouts": [0, 10, 20, 30, 40]}
    line = {"kind": "run", "log": log, "critic": None, "accuracy": {"mean": 0.69}, "length_inflation": 1.0, "proxy_gap": 0.1}
    found = study_report.measures(line | {"rollouts": 40, "seconds": {"update": 1.0, "evaluate": 0.5}})
    assert found["seconds"] == 1.5 and "training" not in study_file.METRICS["seconds"][0]  # the evaluation's are among them
    assert (found["best"], found["peak"], found["held_out"], found["collapsed"]) == (0.9, 2, 0.7, 1)
    assert found["area"] == pytest.approx((20 * 0.65 + 20 * 0.8) / 40)


def test_a_run_s_last_batches_tell_a_drop_and_what_its_critic_earned() -> None:
    log = {"validation/accuracy": [0.4, 0.9], "rollouts": [0, 10], "reward/clean": [0.1, *[0.5] * 5, *[0.9] * 5, 0.4]}
    log |= {"critic/gain": [1.0, 0.2, 0.1], "critic/evidence": [0.0, 2.5, 3.0]}
    found = study_report.measures(RESULTS | {"kind": "run", "log": log, "critic": None, "accuracy": {"mean": 0.9}, "seconds": {}})
    assert (found["last_batches"], found["drop"]) == (pytest.approx(0.8), pytest.approx(0.1))
    assert (found["gain"], found["evidence"]) == (pytest.approx(0.15), 2.5)
    assert {"last_batches", "drop", "gain", "evidence"} <= study_file.METRICS.keys()


def test_a_table_may_compare_several_metrics_and_take_poorer_cold_starts(home) -> None:
    small = yaml.safe_load(Path("small.yaml").read_text()) | {"cold_start": 0.4}
    small["tables"]["methods"] |= {"compared": ["accuracy", "last_batches"], "cold_start": 0.1}
    Path("small.yaml").write_text(yaml.safe_dump(small, sort_keys=False))
    content, cells = study_file.load_study(Path("small.yaml"))
    assert {cell.cold_start for cell in cells if cell.table == "methods"} == {0.1}
    assert {cell.cold_start for cell in cells if cell.table == "critics"} == {0.4}
    found = {}
    for cell in cells:
        values = {"accuracy": 0.5 + 0.1 * cell.seed * (cell.method == "oracle"), "last_batches": 0.7}
        found[cell.key] = (cell.seed, 0.5), values, {}, {}
    own = [cell for cell in cells if cell.table == "methods"]
    differences = [c for c in study_report._table(content.tables["methods"], own, found)["comparisons"] if c["where"] == ["clean"]]
    assert [(c["metric"], c["worst"], c["n"]) for c in differences] == [("accuracy", 0.0, 2), ("last_batches", 0.0, 2)]
    assert study_report._comparison(differences[0]).endswith("higher in 1 of 2 seeds (sign test p = 1), lowest +0.0")


def test_only_runs_from_the_same_models_are_paired(home) -> None:
    """Seed 1's oracle ran on another processor, where the same seed made another base model."""
    content, cells = study_file.load_study(Path("small.yaml"))
    own = [cell for cell in cells if cell.axes.get("noise") == "clean"]
    accuracies = {("oracle", 0): 0.9, ("reinforce", 0): 0.8, ("oracle", 1): 0.5, ("reinforce", 1): 0.7}
    starts = {("oracle", 0): 0.4, ("reinforce", 0): 0.4, ("oracle", 1): 0.5, ("reinforce", 1): 0.4}
    found = {}
    for cell in own:
        place = cell.method, cell.seed
        found[cell.key] = study_report._origin(cell, {"accuracy_init": starts[place]}), {"accuracy": accuracies[place]}, {}, {}
    (difference,) = study_report._table(content.tables["methods"], own, found)["comparisons"]
    assert (difference["n"], difference["mean"]) == (1, pytest.approx(0.1))


def test_a_terminated_study_ends_its_workers_and_goes_on_later(home) -> None:
    command = [sys.executable, "-m", "pipeline.study", "small.yaml", "--table", "methods"]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list((home / "data").glob("study/*.partial/output.txt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    assert "stopped: finished cells are kept" in process.communicate(timeout=30)[1] and process.returncode == 130
    assert workers and not psutil.wait_procs(workers, timeout=10)[1]
    assert not (home / "data/study/.lock").exists()


@pytest.mark.parametrize("change", [{"train": {"iterationz": 3}}, {"label": {"votes": 0}}, {"trainn": {}}])
def test_lines_of_parameters_that_do_not_exist_any_more_are_told_and_left_out(home, capsys, change) -> None:
    _, (first, second, *_) = study_file.load_study(Path("small.yaml"))
    ((section, values),) = change.items()
    line = line_of(first)
    line["params"][section] = line["params"].get(section, {}) | values
    assert counted(line, line_of(second)) == {second.key}
    told = capsys.readouterr().err
    assert "small.jsonl: 1 of 2 lines are of older code and do not count, e.g. 1: " in told and section in told


def test_memory_settings_do_not_run_a_finished_cell_again(home) -> None:
    cell = study_file.load_study(Path("small.yaml"))[1][0]
    other = {"threads": 4}, {"batch_size": 7}, {"micro_batch_size": 1}
    changes = dict(zip(("runtime", "generation", "train"), other, strict=True))
    sections = {section: getattr(cell.params, section).model_copy(update=values) for section, values in changes.items()}
    assert replace(cell, params=cell.params.model_copy(update=sections)).key == cell.key


def test_what_other_code_made_is_not_reused(home, monkeypatch) -> None:
    cell = study_file.load_study(Path("small.yaml"))[1][0]
    before = {stage: study.folder_of(stage, cell.params) for stage in study.shared()} | {"cell": study.folder_of_cell(cell)}
    known = graph.code_digest
    monkeypatch.setattr(graph, "code_digest", lambda stage: "edited" if stage == "sft" else known(stage))
    after = {stage: study.folder_of(stage, cell.params) for stage in study.shared()} | {"cell": study.folder_of_cell(cell)}
    assert {stage for stage in before if before[stage] != after[stage]} == {"sft", "reward", "cell"}


def test_a_killed_cell_goes_on_where_it_stopped_also_after_the_checkout_moved(home, monkeypatch) -> None:
    cell = study_file.load_study(Path("small.yaml"))[1][0]
    for stage in study.shared():
        study.run_stage(stage, cell.params)
    whole, metrics, folder = study.run_cell(cell), study.CellRecord.metrics, study.folder_of_cell(cell)

    def stop(record, values, step=None) -> None:
        if step == 3:
            raise KeyboardInterrupt
        metrics(record, values, step)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(study.CellRecord, "metrics", stop)
        study.run_cell(cell)
    assert Path.cwd() == home and list(folder.glob("data/state/*")) and "reinforce seed 0" in (folder / "output.txt").read_text()
    assert not [path for path in home.rglob("*") if path.is_symlink()] and not (folder / "data/prepared").exists()
    there = home.rename(home.with_name("there"))
    monkeypatch.chdir(there)
    later = study.run_cell(cell)
    assert steady(later) == steady(whole)
    events = read_events(there / tracking.FOLDER / "small" / f"{cell.key}.jsonl")
    assert [event["event"] for event in events if event["event"] in ("start", "resume", "end")] == [
        "start",
        "end",
        "start",
        "resume",
        "end",
    ]
    assert not folder.exists()


def test_paths_in_parameters_are_relative_to_the_project(home) -> None:
    cell = study_file.load_study(Path("small.yaml"))[1][0]
    rows = [{"question": f"{i}+1.", "answer": str(i + 1)} for i in range(20)]
    Path("mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    params = cell.params.model_copy(update={"prepare": cell.params.prepare.model_copy(update={"dataset": "mine.jsonl"})})
    study.run_stage("prepare", params)
    made = read_jsonl(study.folder_of("prepare", params) / "data/prepared/test.jsonl")
    assert {row["question"] for row in made} <= {row["question"] for row in rows}


def test_a_workspace_has_a_place_for_all_that_cells_share() -> None:
    made = {path for stage in study.shared() for path in graph.stages()[stage].made if not path.startswith("data/metrics/")}
    assert made <= {place.default.as_posix() for place in fields(Workspace)}


def test_lines_without_what_reports_need_do_not_count(home, capsys) -> None:
    cell = study_file.load_study(Path("small.yaml"))[1][0]
    whole = line_of(cell)
    lines = [whole, {key: value for key, value in whole.items() if key != "log"}, whole | {"params": 3}, {"kind": "run"}]
    for line, counts in zip(lines, (True, False, False, False), strict=True):
        assert (counted(line) == {cell.key}) is counts
        assert ("1 of 1 lines are of older code" in capsys.readouterr().err) is not counts


def test_a_cell_that_was_left_out_counts_only_while_its_cold_start_is_too_poor(home) -> None:
    cell = study_file.load_study(Path("small.yaml"))[1][0]
    line = {key: value for key, value in line_of(cell).items() if key not in RESULTS} | {"accuracy_init": 0.3}
    assert counted(line, cold_start=0.35) == {cell.key}
    assert not counted(line, cold_start=0.3)
