"""The champion in MLflow's model registry: the policy that is clearly the best on held-out problems. With `mirror.py` the only file that
imports mlflow, and only inside functions.

Each domain and profile has a registered model; its alias "champion" moves only to a policy whose accuracy on the same validation problems
is higher by more than the interval of the difference.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from contextlib import redirect_stderr
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

REGISTERED = "vrpo-policy"  # with the domain and the profile, the model's name
ALIAS = "champion"


def propose(client: MlflowClient, state: dict[str, Any], event: dict[str, Any], checkpoint: Callable[[], Path | None]) -> str:
    """Register a run's policy and move the alias to it, if it is the first or clearly better. Returns the verdict in words.

    `state` holds the ids of run and experiment; `checkpoint` gives the policy's folder, None where it has changed since.
    """
    tags = client.get_run(state["run"]).data.tags
    name = "-".join([REGISTERED, *(tags[key] for key in ("domain", "profile") if key in tags)])
    if reason := _why_not(client, name, event):
        return reason
    if not (path := checkpoint()):
        return "changed before it was sent"
    number = _register(client, state, name, path, event)
    client.set_registered_model_alias(name, ALIAS, number)
    return f"champion, version {number}"


def _why_not(client: MlflowClient, name: str, event: dict[str, Any]) -> str:
    """Why the champion there is stays; "" where there is none or the policy is clearly better."""
    from mlflow.exceptions import MlflowException

    try:
        holder = client.get_model_version_by_alias(name, ALIAS)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no such model; no such alias
            raise
        return ""
    known, which = holder.tags, f"version {holder.version} ({holder.tags.get('run')})"
    if known.get("digest") == event["digest"]:
        return f"is the champion, {which}"
    if not event.get("data") or known.get("data") != event["data"]:
        return f"{which} stays, measured on other problems; delete the alias to begin anew"
    accuracy, best = event["accuracy"], float(known["accuracy"])
    if not clearly_better(accuracy, best, (event["problems"], int(known["problems"]))):
        return f"{which} stays, {accuracy:.1%} is not clearly better than its {best:.1%}"
    return ""


def clearly_better(challenger: float, champion: float, problems: tuple[int, int]) -> bool:
    """Whether the difference of two shares of solved problems lies above 0 with its whole 95 % interval (normal approximation).

    Each share is shrunk towards 1/2 by two problems on either side (Agresti and Caffo 2000), so that 0 and 1 have a width too.
    """
    pairs = zip((challenger, champion), problems, strict=True)
    shares = [((share * count + 1) / (count + 2), count + 2) for share, count in pairs]
    error = math.sqrt(sum(share * (1 - share) / count for share, count in shares))
    return shares[0][0] - shares[1][0] > 1.96 * error


def _register(client: MlflowClient, state: dict[str, Any], name: str, path: Path, event: dict[str, Any]) -> str:
    """Copy the checkpoint into a new version of the registered model; returns the version."""
    import mlflow
    from mlflow.models import Model, infer_signature

    model = client.create_logged_model(state["experiment"], "champion", state["run"], model_type="policy")
    Model.log(
        artifact_path=None,
        model_id=model.model_id,
        flavor=mlflow.pyfunc,
        run_id=state["run"],
        python_model=_policy_model(),
        artifacts={"checkpoint": str(path.resolve())},
        signature=infer_signature(["a prompt"], ["its completion"]),
        pip_requirements=[f"{package}=={version(package)}" for package in ("torch", "transformers")],
    )
    facts = {key: str(event[key]) for key in ("digest", "accuracy", "problems", "data") if event.get(key) is not None}
    with redirect_stderr(io.StringIO()):  # where MLflow prints what the record says
        return mlflow.register_model(f"models:/{model.model_id}", name, tags={**facts, "run": event["name"]}).version


def _policy_model() -> Any:
    """A pyfunc model around a checkpoint folder. Being local, its class is stored with the model: no project is needed to load it."""
    import mlflow.pyfunc

    class Policy(mlflow.pyfunc.PythonModel):
        """Prompts to their greedy completions."""

        def load_context(self, context: Any) -> None:
            from transformers import AutoModelForCausalLM, AutoTokenizer

            folder = context.artifacts["checkpoint"]
            self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
            self.model = AutoModelForCausalLM.from_pretrained(folder)

        def predict(self, context: Any, model_input: list[str]) -> list[str]:
            prompts = self.tokenizer(model_input, return_tensors="pt", padding=True)
            ids, mask = prompts["input_ids"], prompts["attention_mask"]
            outputs = self.model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=256)
            return self.tokenizer.batch_decode(outputs[:, ids.shape[1] :], skip_special_tokens=True)

    return Policy()
