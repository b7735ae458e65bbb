"""What a stage's process says of how it ended."""

import sys

import pytest

from pipeline import environment
from pipeline.stages import stage
from vrpo.errors import OutOfReach, UserError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("no such thing"), 1),
        (OutOfReach("the hub does not answer"), stage.RETRYABLE),
        (ConnectionResetError("reset by peer"), stage.RETRYABLE),
        (TimeoutError(), stage.RETRYABLE),
        (OSError(28, "No space left on device"), 1),
    ],
)
def test_the_exit_code_says_whether_to_try_again(tmp_path, monkeypatch, capsys, error: Exception, code: int) -> None:
    def run(params, *, record) -> dict:
        raise error

    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("profile: tiny\n")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    for name in environment.TELEMETRY_OFF:
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(sys, "argv", ["stage"])
    with pytest.raises(SystemExit) as end:
        stage.main("prepare", run, "A stage.")
    assert end.value.code == code
    assert capsys.readouterr().err.startswith("error: ")
