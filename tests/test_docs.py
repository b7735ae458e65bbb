"""docs/: examples run, commands are such that exist, parameters that they set take effect, names and figures are those of the code and reports."""

import ast
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from docs import parameters
from pipeline.params import Params, load_params

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TUTORIAL = (ROOT / "docs/tutorial.md").read_text()
OTHER_TOOLS = {"accelerate", "export", "git", "lm_eval", "pip"}  # of which nothing here can go stale


def blocks(text: str, language: str) -> list[str]:
    return [block for kind, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE) if kind == language]


COMMANDS = {
    f"{page.stem}: {line}": words
    for page in PAGES
    for block in blocks(page.read_text(), "sh")
    for line in block.replace("\\\n", " ").splitlines()
    if (words := shlex.split(line, comments=True))
}


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], set[str]]:
    """Its Python, run as it stands in a folder of its own: that folder, what it printed, and the names in its log."""
    folder = tmp_path_factory.mktemp("tutorial")
    names = "import json; print(json.dumps(sorted({name for row in log for name in row})))"
    code = "\n".join([f"import sys; sys.path.insert(0, {str(ROOT)!r})", *blocks(TUTORIAL, "python"), names])
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    return folder, lines, set(json.loads(last))


def test_the_tutorial_trains_vrpo_on_ones_own_reward_and_scores_texts(tutorial: tuple[Path, list[str], set[str]]) -> None:
    folder, lines, _ = tutorial
    assert (folder / "my-run/value_model/value_head.safetensors").is_file() and (folder / "my-run/policy/model.safetensors").is_file()
    assert [len(line.split("[")[1].split(",")) for line in lines if line.startswith("3+4")] == [5, 6]


def test_the_tutorial_compares_methods_that_spend_the_same_under_noise(tutorial: tuple[Path, list[str], set[str]]) -> None:
    rows = {
        line.split()[0]: [float(number) for number in line.split()[1:]] for line in tutorial[1] if line.startswith(("ppo", "grpo", "vrpo"))
    }
    assert list(rows) == ["ppo", "grpo", "vrpo"]
    assert rows["ppo"][0] > rows["ppo"][1]  # a policy that knows nothing gains by flips
    assert [line.split()[:2] for line in tutorial[1][:5]] == [["0", "108"], ["1", "161"], ["2", "214"], ["3", "267"], ["4", "320"]]


def overridden(settings: list[str], tmp_path: Path) -> tuple[dict, Params]:
    """params.yaml with what `-S` sets, raw and as the stages see it."""
    from dvc.utils.hydra import apply_overrides

    path = tmp_path / "params.yaml"
    path.write_bytes((ROOT / "params.yaml").read_bytes())
    apply_overrides(path, settings)
    return yaml.safe_load(path.read_text()), load_params(path)


def assert_takes_effect(settings: list[str], tmp_path: Path) -> None:
    raw, params = overridden(settings, tmp_path)
    for setting in settings:
        key = setting.lstrip("+").partition("=")[0].split(".")
        wanted, found = raw, params.model_dump(mode="json")
        for part in key:
            wanted = wanted[part]
        if key[0] in ("domains", "profiles"):
            assert key[1] == getattr(params, key[0][:-1]), setting
            key = key[2:]
        for part in key:
            found = found[part]
        assert found == wanted, f"{setting} is masked by a domain or a profile"


def check_dvc(words: list[str], tmp_path: Path) -> None:
    from dvc.cli import parse_args

    assert_takes_effect(getattr(parse_args(words[1:]), "set_param", None) or [], tmp_path)


def check_make(words: list[str], tmp_path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for word in words[1:]:
        name, is_value, _ = word.partition("=")
        assert re.search(rf"^{name} \?=" if is_value else rf"^{name}:.*## ", makefile, flags=re.MULTILINE), word


def check_python(words: list[str], tmp_path: Path) -> None:
    assert words[1] == "-m"
    module = ROOT / words[2].replace(".", "/")
    source = (module / "__main__.py" if module.is_dir() else module.with_suffix(".py")).read_text()
    source += "".join(
        (ROOT / f"vrpo/console/{name}.py").read_text() for name in re.findall(r"^from vrpo\.console\.(\w+)", source, re.MULTILINE)
    )
    assert [word for word in words[3:] if word.startswith("-") and f'"{word}"' not in source] == []
    assert [word for word in words[3:] if word.startswith("pipeline/") and not (ROOT / word).is_file()] == []


def check_vrpo(words: list[str], tmp_path: Path) -> None:
    from vrpo.console.main import parser_of

    own = {"my-model": "config.json", "my-copies": "gsm8k.jsonl"}
    for folder, name in own.items():  # what the pages tell of as the reader's own
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).touch()
    for name in ("prompts.jsonl", "scored.jsonl"):
        (tmp_path / name).touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        parser_of(words[1]).parse_args(words[1:])


def check_prefect(words: list[str], tmp_path: Path) -> None:
    name = next(word for word in words if "/" in word)
    deployed = {
        f"{d['entrypoint'].rpartition('.')[2]}/{d['name']}": d for d in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    }
    if "--params" in words:
        given = json.loads(words[words.index("--params") + 1])
        assert given.keys() <= deployed[name]["parameters"].keys()
        assert_takes_effect(given.get("overrides", []), tmp_path)
    assert name in deployed


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_commands_exist_and_what_they_set_takes_effect(words: list[str], tmp_path: Path) -> None:
    checks = {"dvc": check_dvc, "make": check_make, "python": check_python, "prefect": check_prefect, "vrpo": check_vrpo}
    assert words[0] in checks or words[0] in OTHER_TOOLS
    if words[0] in checks:
        checks[words[0]](words, tmp_path)


def test_overrides_named_in_the_text_take_effect(tmp_path: Path) -> None:
    found = [setting for page in PAGES for setting in re.findall(r"`[^`\n]*-S ([\w.+]+=[^\s`]+)", page.read_text())]
    assert len(found) > 4
    for setting in found:
        kind, name = setting.split(".")[:2]
        assert_takes_effect([f"{kind[:-1]}={name}"] * (kind in ("domains", "profiles")) + [setting], tmp_path)


def test_every_target_that_make_help_lists_is_told_of() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^ +make (\w+)", listed, flags=re.MULTILINE)
    pages = "\n".join(page.read_text() for page in PAGES)
    assert len(targets) > 10
    assert [target for target in targets if f"make {target}" not in pages] == []


def test_an_override_that_a_domain_masks_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"label\.votes=8 is masked"):
        assert_takes_effect(["domain=science", "label.votes=8"], tmp_path)


@pytest.mark.parametrize("name", ["mine.jsonl", "questions.jsonl"])
def test_the_tutorials_data_pass_prepare_with_its_own_settings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.stages import prepare

    rows = re.search(rf"`{name}`\n\n```json\n(.*?)```", TUTORIAL, flags=re.DOTALL).group(1)
    (tmp_path / name).write_text(rows)
    words = next(words for words in COMMANDS.values() if f"prepare.dataset={name}" in words)
    _, params = overridden([word for word in words if "=" in word], tmp_path)
    monkeypatch.chdir(tmp_path)
    metrics = prepare.run(params, record=None)
    assert sum(metrics[f"rows_{split}"] for split in prepare.SPLITS) == len(rows.splitlines())


def test_the_tutorials_reward_is_found_and_run_by_its_own_settings(tmp_path: Path) -> None:
    from pipeline import own_code

    (text,) = [block for block in blocks(TUTORIAL, "python") if "def score" in block]
    (tmp_path / "my_rewards.py").write_text(text)
    words = next(words for words in COMMANDS.values() if "reward.function=my_rewards.py:score" in words)
    _, params = overridden([word for word in words if "=" in word], tmp_path)
    own_code.check(params.reward.function, tmp_path)
    score = own_code.load(params.reward.function, tmp_path)
    assert score(["3+4.:"] * 3, ["+4=7", "7", "+4=8"], answer=["7"] * 3) == [1.0, 0.0, 0.0]


def test_the_study_of_ones_own_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.study.file import load_study

    monkeypatch.chdir(ROOT)
    (example,) = blocks((ROOT / "docs/operate.md").read_text(), "yaml")
    (tmp_path / "mine.yaml").write_text(example)
    study, cells = load_study(tmp_path / "mine.yaml")
    assert len(cells) == 10 and len(study.tables) == 1


def test_the_line_that_adds_a_benchmark_is_one_of_the_file() -> None:
    (line,) = blocks((ROOT / "docs/operate.md").read_text(), "python")
    assert line.strip() in (ROOT / "vrpo/benchmarks/questions.py").read_text()


def test_the_page_of_parameters_is_current() -> None:
    assert parameters.PAGE.read_text() == parameters.render(), "run `python -m docs.parameters`"


def test_the_page_of_parameters_reads_comments_wherever_they_stand() -> None:
    from pipeline.params import RewardConfig

    said = parameters.comments(RewardConfig)
    assert said["beta"] == "of the implicit reward"  # beside the field
    assert said["kind"].startswith('"model": a classifier of whole responses')  # above it
    assert said["accuracy"].startswith("pairwise, on clean preferences")  # within it
    assert said["pairs"] == "of responses that a learned reward is trained on" and all(said.values())


def glossary() -> set[str]:
    rows = re.findall(r"^\| (`[^|]*`) \|", (ROOT / "docs/concepts.md").read_text(), flags=re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def logged_names() -> set[str]:
    """Names of metrics that stand in the library's source as they are logged."""
    kinds = ("policy", "critic", "reward", "advantage", "length", "validation", "rollout")
    found = set()
    for path in (ROOT / "vrpo").rglob("*.py"):
        texts = {
            node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        found |= {text for text in texts if re.fullmatch(rf"({'|'.join(kinds)})/[a-z_]+[a-z]", text)}
    return found


def test_the_glossary_has_every_metric_of_the_trainer(tutorial: tuple[Path, list[str], set[str]]) -> None:
    from vrpo.metrics.health import HEALTH_CHECKS, health_metrics

    names = tutorial[2] | logged_names() | health_metrics([]).keys()
    assert {"critic/semantic", "critic/latent_kl", "advantage/noise_covariance", "policy/kl_loss", "health/dead_critic"} <= names
    assert sorted(names - glossary()) == []
    page = (ROOT / "docs/concepts.md").read_text()
    assert [check for check in HEALTH_CHECKS if f"\n| {check} |" not in page] == []


def test_the_glossary_has_every_metric_of_evaluations_reports_studies_and_benchmarks() -> None:
    from pipeline.stages.report import AVERAGED, CRITIC
    from pipeline.study.file import METRICS
    from vrpo.tasks.dialogue import DOMAIN

    reports = ROOT / "data/reports"
    summary = json.loads((reports / "dialogue/clean.json").read_text())
    runs = summary["runs"]
    names = {*AVERAGED, *CRITIC, *DOMAIN.measures.shares, *METRICS, *(name for run in runs for name in run)}
    names |= {name for run in runs for part in ("critic", "dialogue") for name in run[part] or ()}
    names |= {name for method in summary["methods"].values() for name in method}
    configured = {"benchmark", "model", "domain", "source", "problems", "samples", "generation", "seed"}  # of a benchmark, not measured
    for path in (reports / "benchmarks").glob("*.json"):
        names |= {re.sub(r"@\d+", "@k", name) for name in json.loads(path.read_text()) if name not in configured}
    assert sorted(names - glossary()) == []


@pytest.mark.parametrize(
    ("name", "unit"), {"reward/true_positive_rate": "reward", "reward/false_positive_rate": "reward", "mean_diff": "share"}.items()
)
def test_the_glossary_does_not_name_another_unit_than_the_numbers_have(name: str, unit: str) -> None:
    from vrpo.rewards.noise import confusion

    rates = confusion([-0.6, 0.9, 1.6], [0.0, 1.0, 1.0])  # of corrected rewards: no shares
    assert rates["true_positive_rate"] == 1.25 and rates["false_positive_rate"] == -0.6
    (row,) = re.findall(rf"^\| `{name}` \|.*$", (ROOT / "docs/concepts.md").read_text(), flags=re.MULTILINE)
    assert row.split(" | ")[2] == unit


def test_figures_of_the_study_are_those_of_its_file() -> None:
    tables = json.loads((ROOT / "data/reports/study/noise.json").read_text())["tables"]
    page = (ROOT / "docs/results.md").read_text()
    for row in tables["duel"]["rows"]:
        found = row["metrics"]["accuracy"]
        mean, low, high, middle = (f"{100 * value:.1f}" for value in (found["mean"], *found["ci95"], found["iqm"]))
        assert f"{mean} [{low}, {high}] | {middle} |" in page, row["axes"]
    for noise in ("0.2", "0.4"):
        means = [f"{100 * row['metrics']['accuracy']['mean']:.1f}" for row in tables["beta"]["rows"] if row["axes"][0] == f"flip {noise}"]
        assert f"| {noise} | {' | '.join(means)} |" in page
