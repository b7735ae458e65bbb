"""Parameters against the machine and against the committed file: said at once, by `pipeline.tools.check` and by stages."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import environment, preflight
from pipeline.overlays import overlay, read_yaml
from pipeline.params import Params
from pipeline.stages import stage
from pipeline.tools import check
from tests.pipeline.conftest import PROJECT
from vrpo.config import RuntimeConfig
from vrpo.console import machine
from vrpo.errors import UserError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with the committed parameters and profile mini; no device, two CPUs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    for name in environment.TELEMETRY_OFF:
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(machine, "_cuda_devices", lambda: 0)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1}, raising=False)
    write({"profile": "mini"}, PROJECT / "params.yaml")
    for words in ("init -q", "add .", "-c user.name=a -c user.email=a@b commit -qm first"):
        subprocess.run(["git", *words.split()], check=True)
    return tmp_path


def write(changes: dict, source: Path = Path("params.yaml")) -> None:
    Path("params.yaml").write_text(json.dumps(overlay(read_yaml(source), changes)))


def started(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, name: str) -> tuple[int, str, list]:
    """Exit code, standard error and calls of `run` of a stage, or of `pipeline.tools.check`."""
    calls: list = []

    def run(params: Params, *, record: object) -> dict:
        calls.append(params)
        return {}

    monkeypatch.setattr(sys, "argv", [name])
    try:
        check.main() if name == "check" else stage.main(name, run, "A stage.")
    except SystemExit as end:
        return end.code, capsys.readouterr().err, calls
    return 0, capsys.readouterr().err, calls


@pytest.mark.parametrize("name", ["check", "prepare", "sft"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runtime": {"device": "cuda"}}, "error: runtime.device = 'cuda': 0 CUDA devices here, with torch 2.*; use cpu\n"),
        ({"runtime": {"threads": 3}}, "error: runtime.threads = 3: more than the CPUs that this process may use, 2; use 1 to 2\n"),
        (
            {"profiles": {"mini": {"prepare": {"train_size": 30}}}},
            "error: sft.demonstrations = 32: more than the training problems (prepare.train_size = 30); lower it or raise that\n",
        ),
    ],
)
def test_what_this_machine_or_a_later_stage_cannot_do_stops_before_any_work(home, monkeypatch, capsys, name, changes, message) -> None:
    write(changes)
    code, said, calls = started(monkeypatch, capsys, name)
    start, _, end = message.partition("*")
    assert (code, calls, said.startswith(start), said.endswith(end)) == (1, [], True, True), said


def test_a_device_beyond_the_last_one_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(machine, "_cuda_devices", lambda: 2)
    machine.check_machine(RuntimeConfig(device="cuda:1"))
    with pytest.raises(UserError, match=r"'cuda:7': 2 CUDA devices here.*; use cpu or cuda:0 to cuda:1"):
        machine.check_machine(RuntimeConfig(device="cuda:7"))


def test_a_missing_device_is_found_without_torch() -> None:
    """Its import takes seconds; `device: cuda` without CUDA used to take 40 of them and to end in a traceback."""
    code = "import sys; from vrpo.console import machine; print(machine._cuda_devices(), 'torch' in sys.modules)"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    count, imported = done.stdout.split()
    assert count.isdigit() and imported == "False" and time.perf_counter() - start < 30


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"prepare": {"train_size": 30}},
            "-S prepare.train_size=30 has no effect: profiles.mini sets 96; set profiles.mini.prepare.train_size",
        ),
        (
            {"domain": "science", "prepare": {"seed": 1}, "base": {"slip_rate": 0.5}},
            "-S base.slip_rate=0.5 has no effect: domains.science sets 0.35; set domains.science.base.slip_rate",
        ),
        (
            {"domain": "science", "domains": {"science": {"label": {"votes": 9}}}},
            "-S domains.science.label.votes=9 has no effect: profiles.mini sets 3; set profiles.mini.label.votes",
        ),
        (
            {"profiles": {"smollm2": {"evaluate": {"samples": 2}}}},
            "-S profiles.smollm2.evaluate.samples=2 has no effect: profile is mini; set profile=smollm2 too",
        ),
        (
            {"domains": {"science": {"base": {"steps": 7}}}},
            "-S domains.science.base.steps=7 has no effect: domain is math; set domain=science too",
        ),
        (
            {"train": {"critic": {"latent_size": 64}}},
            "-S train.critic.latent_size=64 has no effect: profiles.mini sets 8; set profiles.mini.train.critic.latent_size",
        ),
    ],
)
def test_an_override_that_changes_nothing_is_said(home, monkeypatch, capsys, changes, message) -> None:
    write(changes)
    assert started(monkeypatch, capsys, "check") == (0, f"warning: {message}\n", [])
    section = next(word for word in message.split("=")[0].removeprefix("-S ").split(".") if word in Params.model_fields)
    assert started(monkeypatch, capsys, section)[1] == f"warning: {message}\n"
    assert started(monkeypatch, capsys, "report")[1] == ""  # it does not read that section


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"prepare": {"seed": 3}, "train": {"gamma": 0.9}},
        {"profiles": {"mini": {"prepare": {"train_size": 40}}}},
        {"prepare": {"train_size": 40}, "profiles": {"mini": {"prepare": {"train_size": 40}}}},
        {"profiles": {"mine": {"sft": {"steps": 2}}}},
        {"profile": "tiny", "prepare": {"train_size": 300}},
    ],
)
def test_nothing_is_said_of_values_that_act(home, monkeypatch, capsys, changes) -> None:
    write(changes)
    assert started(monkeypatch, capsys, "check") == (0, "", [])


def test_without_git_or_a_committed_file_nothing_is_said(home, monkeypatch) -> None:
    write({"prepare": {"train_size": 30}})
    assert list(preflight.masked_overrides(Path("params.yaml")))
    Path("other.yaml").write_bytes(Path("params.yaml").read_bytes())
    assert not list(preflight.masked_overrides(Path("other.yaml")))
    monkeypatch.setenv("PATH", "")
    assert not list(preflight.masked_overrides(Path("params.yaml")))
