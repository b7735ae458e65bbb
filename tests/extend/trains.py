"""Runs in the copy of the project that has the recipes of docs/extend.md: what they do in training goes to found.json."""

import contextlib
import io
import json
import multiprocessing
import os
import runpy
import sys
from pathlib import Path

SMALL = {  # a pipeline of seconds
    "methods": ["vrpo"],
    "seeds": [0],
    "generation": {"max_new_tokens": 5},
    "prepare": {"train_size": 40, "validation_size": 6, "test_size": 8},
    "base": {"hidden_size": 16, "layers": 1, "heads": 2, "steps": 20, "batch_size": 8},
    "label": {"votes": 2},
    "noise": [{"kind": "flip", "false_positive": 1.0}, {"kind": "length", "per_character": 0.002, "limit": 1.25}],
    "sft": {"demonstrations": 8, "steps": 2, "batch_size": 4},
    "train": {
        **{"iterations": 2, "rollouts": 24, "group_size": 4, "measure_every": 1, "monte_carlo_prefixes": 4, "monte_carlo_samples": 2},
        "critic": {"warmup_rollouts": 8, "warmup_epochs": 1, "latent_size": 8},
    },
    "evaluate": {"samples": 2},
}
RUNS = {  # by folder: the domain as a folder with settings of its own, and as a file with the same in params.yaml
    "folder": {"domain": "sort", "domains": {"sort": {"label": SMALL["label"]}}},
    "file": {
        "domain": "my_task.py:DOMAIN",
        "prepare": {**SMALL["prepare"], "max_length": 4},
        "label": {"votes": 2, "temperature": 0.5},
    },
}


def refused(make) -> str | None:
    from vrpo.errors import UserError

    try:
        make()
    except (UserError, ValueError) as error:
        return str(error)


def apart(one, other) -> float:
    from tiny import weights

    return max(float((a - b).abs().max()) for a, b in zip(weights(one).values(), weights(other).values(), strict=True))


def algorithm_and_critic() -> dict:
    from tiny import count_digits, trainer

    import vrpo.kinds
    from vrpo.critics.value_model import ValueModel
    from vrpo.tasks.math.chain import ChainTask, generate_problems, new_tokenizer

    tokenizer, task = new_tokenizer(), ChainTask(max_length=3)
    problems = [{"prompt": task.prompt(row["question"]), "answer": row["answer"]} for row in generate_problems(40, 0, 1, 3, set())]

    def run(method, folder=None, settings=None, **changes):
        if settings is not None:
            changes["critic"] = {"kind": "quantile", "settings": settings}
        made = trainer(tokenizer, problems, method, changes={"iterations": 2, "rollouts": 72, **changes}, clean_reward=count_digits)
        log = made.run()
        if folder:
            made.save_pretrained(folder)
        return made, log

    found = {"where": vrpo.kinds.__file__}
    median, found["median"] = run("median")
    found["median_split"] = apart(median, run("median", micro_batch_size=5)[0])
    critic, found["quantiles"] = run("ppo", "saved", {"quantiles": 4})
    found["quantiles_split"] = apart(critic, run("ppo", settings={"quantiles": 4}, micro_batch_size=5)[0])
    found["vrpo_loses_its_own"] = sorted(run("vrpo", settings={})[1][-1])
    found["head"] = json.loads(Path("saved/value_model/value_head.json").read_text())
    found["outputs"] = ValueModel.from_pretrained("saved/value_model").head.decoder[-1].weight.shape[0]
    found["no_method"] = refused(lambda: run("medain"))
    found["no_kind"] = refused(lambda: run("ppo", critic={"kind": "medain"}))
    found["no_setting"] = refused(lambda: run("ppo", settings={"quantile": 4}))
    return found


def sampler(lora: dict | None) -> dict:
    import torch
    from tiny import config, count_digits, tiny_policy

    from vrpo import Trainer
    from vrpo.config import GenerationConfig
    from vrpo.models.forward import policy_forward
    from vrpo.rollout.sampler import new_sampler
    from vrpo.rollout.samples import sample_texts
    from vrpo.tasks.math.chain import new_tokenizer

    tokenizer = new_tokenizer()
    problems = [{"prompt": f"{i % 10}+{i % 7}.:", "id": str(i)} for i in range(40)]
    policy, generation = tiny_policy(tokenizer), GenerationConfig(max_new_tokens=8, max_turns=2, engine="half")
    settings, tokenizer.chat_template = config(iterations=2, lora=lora), "{% for m in messages %}{{ m['content'] }}.{% endfor %}"
    options = {"generation": generation, "validation": problems[:6], "environment": lambda row, turns: "1+" if len(turns) < 2 else None}
    run, drawn, versions = Trainer(settings, policy, tokenizer, problems, count_digits, method="vrpo", **options), [], []
    engine = run.collector.sampler
    sample, load = engine.sample, engine.model.load_state_dict
    engine.sample = lambda *prompts, **options: drawn.append(sample(*prompts, **options)) or drawn[-1]
    engine.model.load_state_dict = lambda weights: versions.append(engine.version) or load(weights)
    log = run.run()
    experience, _ = run.collect(problems[:16], [0] * 16, iteration=2)
    mask, own = experience.response_mask, drawn[-2].logprobs  # of the first turn
    with torch.no_grad():
        right = policy_forward(run.policy, experience, 1.0).logprobs
    sampled = zip(engine.model.state_dict().values(), dict(run.sharding.whole(run.policy)).values(), strict=True)
    return {
        "engine": type(engine).__name__,
        "rows": len(log),
        "versions": versions,
        "updates": run.policy_updates,
        "off": float((experience.logprobs - right)[mask].abs().max()),
        "engine_off": float((own - right[:, : own.shape[1]])[drawn[-2].response_mask].abs().max()),
        "stale": max(float((a.float() - b).abs().max() / b.abs().max()) for a, b in sampled),
        "texts": len(sample_texts(new_sampler(policy, tokenizer, generation), ["1+1.:"], 3, seed=(0,))[0][0]),
    }


def project(changes: dict) -> dict:
    """All stages in this folder, with the recipes' domain, noise and metric."""
    from unittest.mock import MagicMock

    from pipeline.domains import load_task
    from pipeline.params import resolve_params
    from pipeline.stages import base, evaluate, label, prepare, report, reward, sft, train, validate
    from pipeline.tracking.file import Record
    from pipeline.tracking.record import start_event

    params, ignored = resolve_params(SMALL | changes), MagicMock(champion=lambda *_: None)
    training = Record(Path("data/tracking/train.jsonl"), start_event("train-vrpo-0", stage="train", params=params, arguments=("vrpo", 0)))
    for stage in (prepare, validate, base, label, sft, reward):
        stage.run(params, record=ignored)
    metrics = train.run(params, "vrpo", 0, record=training)
    evaluate.run(params, "vrpo", 0, record=ignored)
    report.run(params, record=ignored)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        verified = pool.apply(load_task(params).verify, (["ab", "ba"], ["ab", "ab"]))
    return {"metrics": metrics, "verified": verified}


def check(values: dict) -> str:
    """What `python -m pipeline.tools.check` says of these parameters."""
    Path("checked.yaml").write_text(json.dumps(values))
    said, sys.argv = io.StringIO(), ["check", "--params", "checked.yaml"]
    with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        runpy.run_module("pipeline.tools.check", run_name="__main__")
    return said.getvalue()


def noise_values() -> dict:
    clean, noise = {"label": {"source": "clean"}}, [{"kind": "length", "per_character": 0.01}]
    return {
        "misspelt": check(clean | {"noise": [{"kind": "length", "per_charakter": 0.01}]}),
        "uncorrected": check(clean | {"noise": noise, "reward": {"correction": "backward"}}),
        "corrected": check(clean | {"noise": noise, "reward": {"correction": "backward", "checked_samples": 8}}),
    }


def chosen_by(recipes: dict) -> dict:
    """What is said of params.yaml with each of the values that the page gives."""
    import yaml

    values, own = yaml.safe_load(Path("params.yaml").read_text()), Path("my_task.py")
    own.write_text("DOMAIN = None")
    found = {f"{name} {place}": check(values | chosen) for name, all_chosen in recipes.items() for place, chosen in enumerate(all_chosen)}
    own.unlink()  # it would be in the way of the one in `file`
    return found


def main() -> None:
    given = json.loads(sys.stdin.read())
    found = {"checks": chosen_by(given["chosen"]), "noise": noise_values()}
    runpy.run_module("docs.parameters", run_name="__main__")
    found["trained"] = algorithm_and_critic()
    found["sampler"] = {"whole": sampler(None), "lora": sampler({"rank": 2})}
    for folder, changes in RUNS.items():
        Path(folder).mkdir()
        os.chdir(folder)
        if folder == "file":
            Path("my_task.py").write_text(given["domain"])
        found[folder] = project(changes)
        os.chdir("..")
    Path("found.json").write_text(json.dumps(found))


if __name__ == "__main__":  # not in the worker
    main()
