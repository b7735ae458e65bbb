"""The front door: commands by the names of their modules, help without torch, mistakes in one line."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import vrpo
from vrpo.console import main
from vrpo.errors import UserError

ROOT = Path(__file__).parents[3]
HEAVY = ("torch", "transformers", "scipy", "datasets", "pandas")


@pytest.fixture
def command(tmp_path, monkeypatch):
    """A command `greet` in a folder of commands of its own, which does what `command.does` says."""
    (tmp_path / "main.py").write_text('"""No command."""\n')
    (tmp_path / "greet.py").write_text(
        '"""Greet someone, 100 % politely.\n\nMore of it."""\n\n\ndef add_arguments(parser):\n    ...\n\n\ndef run(arguments):\n    ...\n'
    )
    found = SimpleNamespace(does=lambda arguments: print(f"hello {arguments.name}"))
    found.add_arguments = lambda parser: parser.add_argument("name")
    found.run = lambda arguments: found.does(arguments)
    monkeypatch.setattr(main, "__file__", str(tmp_path / "main.py"))
    monkeypatch.setattr(main, "import_module", {"vrpo.console.greet": found}.__getitem__)
    return found


def test_a_module_with_arguments_is_a_command_and_its_docstring_the_help(command, capsys):
    assert main.commands() == {"greet": "Greet someone, 100 % politely.\n\nMore of it."}
    main.main(["greet", "you"])
    assert capsys.readouterr().out == "hello you\n"
    for arguments, said, unsaid in ((["--help"], "politely.\n", "More of it"), (["greet", "--help"], "More of it.", "COMMAND")):
        with pytest.raises(SystemExit, match="^0$"):
            main.main(arguments)
        out = capsys.readouterr().out
        assert said in out and unsaid not in out


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (UserError("name = 'x': no such thing"), 2, "error: name = 'x': no such thing\n"),
        (PermissionError(13, "Permission denied", "out.jsonl"), 2, "error: [Errno 13] Permission denied: 'out.jsonl'\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_what_goes_wrong_is_one_line_and_an_exit_code(command, capsys, raised, code, said):
    def fail(arguments):
        raise raised

    command.does = fail
    with pytest.raises(SystemExit) as end:
        main.main(["greet", "you"])
    assert (end.value.code, capsys.readouterr().err) == (code, said)


def test_a_bug_keeps_its_traceback(command):
    command.does = lambda arguments: 1 / 0
    with pytest.raises(ZeroDivisionError):
        main.main(["greet", "you"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "error: the following arguments are required: COMMAND; `vrpo --help` shows what there is\n"),
        (["gret"], "error: argument COMMAND: invalid choice: 'gret' (choose from 'greet'); `vrpo --help` shows what there is\n"),
        (["greet"], "error: the following arguments are required: name; `vrpo greet --help` shows what there is\n"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(command, capsys, arguments, said):
    with pytest.raises(SystemExit, match="^2$"):
        main.main(arguments)
    assert capsys.readouterr().err == said


def test_telemetry_is_off_before_a_command_runs(command, monkeypatch):
    monkeypatch.setattr(main.os, "environ", {"DO_NOT_TRACK": "0"})
    command.does = lambda arguments: None
    main.main(["greet", "you"])
    assert main.os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1" and main.os.environ["DO_NOT_TRACK"] == "0"


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit, match="^0$"):
        main.main(["--version"])
    assert capsys.readouterr().out == f"vrpo {vrpo.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in main.commands())], ids=" ".join)
def test_help_imports_nothing_heavy(arguments):
    code = (
        f"import sys; from vrpo.console.main import main\ntry: main({arguments})\nfinally: print(sorted(set({HEAVY}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: vrpo") and done.stdout.endswith("\n[]\n")
    assert all(name in done.stdout for name in main.commands()) or len(arguments) > 1
