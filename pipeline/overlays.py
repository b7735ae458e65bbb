"""Files of parameters: YAML read strictly, values laid over one another, wrong ones explained."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from vrpo.errors import UserError
from vrpo.tasks import loader

TOP = ("domain", "profile", "methods", "seeds")  # what DVC reads from the top of the file, to know its stages
RENAMED = {  # keys of before, and what stands in their place; {} is their value
    "label.false_positive_rate": "noise: [{{kind: flip, false_positive: {}}}]",
    "label.false_negative_rate": "noise: [{{kind: flip, false_negative: {}}}]",
    "label.prompt_flip_rate": "noise: [{{kind: prompt_flip, rate: {}}}]",
    "label.heavy_tail_scale": "noise: [{{kind: heavy_tail, scale: {}}}]",
    "label.heavy_tail_degrees": "noise: [{{kind: heavy_tail, scale: ..., degrees: {}}}]",
}
CURES = {  # what pydantic's message leaves open, by type of error
    "int_type": "; write a whole number without quotes or fraction",
    "float_type": "; write a number without quotes",
    "bool_type": "; write true or false",
    "list_type": "; write [one, another]",
    "model_type": "; write keys and values below it, or {}",
    "union_tag_not_found": "; name the kind first, as in {kind: flip, false_positive: 0.2}",
}


class Loader(yaml.SafeLoader):
    """YAML where a key stands once (the last one would win in silence) and numbers are those of YAML 1.2, which DVC writes and reads: 1e-05 is
    one, while 1:30 (90 in YAML 1.1), 010 (8) and 0x10 are none."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node, marks = super().compose_mapping_node(anchor), {}
        for key, _ in node.value:
            if isinstance(key.value, str) and (first := marks.setdefault(key.value, key.start_mark)) is not key.start_mark:
                problem = f"{key.value} is set twice, first in line {first.line + 1}; remove one of the two"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
        return node


NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}
Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag not in NUMBERS] for first, found in Loader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9]\d*)$"), list("-+0123456789"))
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.\d*|\.\d+)$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"), list("-+.0123456789")
)
Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789"))


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        UserError: it cannot be read, is no YAML, or sets a key twice; file and line are named.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run from the project's folder or correct the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or error
        place = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}: cannot be read: not valid YAML{place}: {' '.join(str(problem).split())}") from None
    except (ValueError, RecursionError) as error:  # an impossible date, a number of thousands of digits, lists within lists
        raise UserError(f"{path}: cannot be read: {error}") from None


def overlay(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `changes` laid over it, recursing into dictionaries."""
    merged = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = overlay(merged[key], value) if nested else value
    return merged


def resolve(model: type[BaseModel], raw: dict[str, Any], origin: str) -> dict[str, Any]:
    """The values of `raw` with those of the chosen domain (its folder's settings beneath), then those of the chosen profile laid over them.

    The domains and profiles that are not chosen are checked too: each key and value, and that it goes with one of the others at least.

    Raises:
        UserError: one line per wrong value, each naming the key, the value and what is allowed.
    """
    values = dict(raw)
    layers = {kind: values.pop(kind, None) or {} for kind in ("domains", "profiles")}
    wrong = [*_misplaced(model, layers), *complaints(model, values)[0]]
    if not wrong:
        places = [(f"{kind}.{name}", changes) for kind, overlays in layers.items() for name, changes in overlays.items()]
        wrong = [line for place, changes in places for line in complaints(model, changes, place)[0]]
    layers["domains"] = layers["domains"] if wrong else with_settings(layers["domains"], model)
    domain, profile = (values.get(key, model.model_fields[key].default) for key in ("domain", "profile"))
    if not wrong and profile not in (profiles := {"tiny", *layers["profiles"]}):
        wrong = [f"profile: unknown profile {profile!r}; use one of {', '.join(sorted(profiles))}"]
    if wrong:
        raise UserError("\n".join(f"{origin}: {line}" for line in wrong))

    def merged(base: dict[str, Any], domain: str, profile: str) -> dict[str, Any]:
        sections = overlay(base, layers["domains"].get(domain, {}))
        return overlay(sections, layers["profiles"].get(profile, {})) | {"domain": domain, "profile": profile}

    wrong = [line for lines in complaints(model, merged(values, domain, profile)) for line in lines]
    pairs = {f"domains.{name}": [(name, other) for other in (profile, *layers["profiles"])] for name in layers["domains"]}
    pairs |= {f"profiles.{name}": [(other, name) for other in (domain, *layers["domains"])] for name in layers["profiles"]}
    for place, combinations in pairs.items() if not wrong else ():
        # Over the defaults too: a value that was changed for this run alone says nothing against a profile that is not chosen.
        found = [complaints(model, merged(base, *pair))[1] for base in (values, {}) for pair in combinations]
        wrong += [f"{place}: {line}" for line in found[0] if all(found)]
    if wrong:
        raise UserError("\n".join(f"{origin}: {line}" for line in wrong))
    return merged(values, domain, profile)


def with_settings(overlays: dict[str, Any], model: type[BaseModel] | None = None) -> dict[str, Any]:
    """Values of `domains` with the settings.yaml of each domain's folder, where it has one, beneath them.

    Args:
        model: which the settings are checked against; None: they are not.

    Raises:
        UserError: one is malformed, or a value in it is wrong.
    """
    merged = dict(overlays)
    for name in loader.domains():
        path = loader.settings_file(name)
        if path.exists():
            values = read_yaml(path)
            wrong = [] if isinstance(values, dict) else ["write sections of keys and values"]
            wrong = wrong or [f"{key}: is read at the top of params.yaml alone; set it there" for key in TOP if key in values]
            if wrong := wrong or (complaints(model, values)[0] if model else []):
                raise UserError("\n".join(f"{path}: {line}" for line in wrong))
            merged[name] = overlay(values, merged.get(name) or {})
    return merged


def _misplaced(model: type[BaseModel], layers: dict[str, Any]) -> list[str]:
    """What is wrong with `domains` and `profiles` besides the values in them."""
    wrong, domains = [], loader.domains()
    for kind, overlays in layers.items():
        if not isinstance(overlays, dict):
            wrong.append(f"{kind} = {overlays!r}: write names, and below each its sections")
            continue
        for name, changes in overlays.items():
            if kind == "domains" and name not in domains:
                wrong.append(f"domains.{name}: unknown domain; use one of {', '.join(domains)}")
            elif not isinstance(name, str) or not isinstance(changes, dict):
                wrong.append(f"{kind}.{name} = {changes!r}: write sections of keys and values below a name that is text, or {{}} for none")
            else:
                wrong += [f"{kind}.{name}.{key}: is read at the top alone; set it there" for key in TOP if key in changes]
    return wrong


def complaints(model: type[BaseModel], values: dict[str, Any], place: str = "") -> tuple[list[str], list[str]]:
    """What is wrong with values for a model: keys and values by themselves, and values that do not go together.

    Args:
        place: dotted name of where the values stand, for the messages.
    """
    alone, together = [], []
    try:
        model.model_validate(values)
    except ValidationError as error:
        for issue in error.errors():
            where = ".".join(str(part) for part in (*filter(None, [place]), *issue["loc"]))
            if issue["type"] == "value_error":
                together.append(": ".join(filter(None, [where, str(issue["ctx"]["error"])])))
            elif new := RENAMED.get(".".join(map(str, issue["loc"]))):
                alone.append(f"{where}: is now {new.format(issue['input'])}")
            elif issue["type"] == "extra_forbidden":
                alone.append(f"{where}: unknown key; remove it or fix its spelling{_did_you_mean(model, issue['loc'])}")
            else:
                value = "" if isinstance(issue["input"], dict) else f" = {' '.join(repr(issue['input']).split())[:80]}"
                alone.append(f"{where or 'params'}{value}: {issue['msg']}{CURES.get(issue['type'], '')}")
    return alone, together


def _did_you_mean(model: Any, location: tuple[Any, ...]) -> str:
    """Suggest the closest known key beside a misspelt one."""
    kinds = [model]
    for part in location[:-1]:
        if part in model.model_fields:
            kinds = models_in(model.model_fields[part].annotation)
        model = next((kind for kind in kinds if "kind" in kind.model_fields and kind.model_fields["kind"].default == part), kinds[0])
    close = get_close_matches(str(location[-1]), list(model.model_fields), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a field takes: itself, the one beside None, the kinds of a list's entries."""
    own = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return [annotation] if own else [model for part in get_args(annotation) for model in models_in(part)]
