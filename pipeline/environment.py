"""What the pipeline's commands set beside what every command sets (`vrpo.console.environment`): no telemetry of its tools."""

from __future__ import annotations

from pathlib import Path

from vrpo.console import environment

TELEMETRY_OFF = {
    **environment.TELEMETRY_OFF,
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


def prefect_environment(root: Path) -> dict[str, str]:
    """Settings under which everything of Prefect runs here: its files in the project, no telemetry, plain-text flow addresses."""
    return {**TELEMETRY_OFF, "PREFECT_HOME": str(root / ".prefect"), "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120"}
