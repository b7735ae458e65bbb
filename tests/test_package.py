"""The package as others install it: the library alone, in an environment that has what it declares and nothing of the pipeline's."""

import ast
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
from collections import defaultdict
from collections.abc import Iterable
from email.parser import HeaderParser
from importlib.metadata import Distribution, distribution, distributions, packages_distributions
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import vrpo
from tests.vrpo.tiny import reading_policy

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PIPELINE_ONLY = ("dvc", "prefect", "mlflow", "great_expectations", "prefect_dask", "fastapi", "sqlalchemy", "matplotlib")
ASKED_FOR = {"vllm", "verifiers", "matplotlib"}  # what a module wants when it is used; the user installs it


def bare_environment() -> dict[str, str]:
    """No path of this project's, no hub."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return kept | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and the wheel that is made of it, by the tools that are here."""
    folder, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("vrpo", "pipeline", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "CITATION.cff"):
        shutil.copy(ROOT / name, folder)
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(built)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, check=True)
    (source,) = built.iterdir()
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(built)]
    subprocess.run([*pip, str(source)], cwd=folder, capture_output=True, check=True)
    return built


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


def requirements(wheel: Path) -> list[Requirement]:
    with ZipFile(wheel) as file:
        (metadata,) = (name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        text = file.read(metadata).decode()
    return [Requirement(line) for line in HeaderParser().parsestr(text).get_all("Requires-Dist")]


def closure(wanted: Iterable[Requirement]) -> dict[str, Distribution]:
    """What is installed when these are, all the way down, by canonical name."""
    found: dict[str, Distribution] = {}
    queue, seen = [(requirement, "") for requirement in wanted], set()
    while queue:
        requirement, extra = queue.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for wanted_extra in {"", *requirement.extras}:
            if (name, wanted_extra) not in seen:
                seen.add((name, wanted_extra))
                found[name] = distribution(requirement.name)
                queue += [(Requirement(text), wanted_extra) for text in found[name].requires or ()]
    return found


def show(place: Path, shown: dict[str, Distribution]) -> None:
    """Link into a folder the files of some distributions of this environment, and of no other."""
    owners = defaultdict(set)  # of each name at the top
    for one in distributions():
        for file in one.files or ():
            owners[file.parts[0]].add(canonicalize_name(one.metadata["Name"]))
    for one in shown.values():
        for file in one.files or ():
            top = file.parts[0]
            if top in ("..", "__pycache__"):
                continue
            path = Path(top) if owners[top] <= shown.keys() else Path(file)  # a folder that several share: file by file
            if not (place / path).is_symlink():
                (place / path).parent.mkdir(parents=True, exist_ok=True)
                (place / path).symlink_to(one.locate_file(path))


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the programs of an environment with the wheel and what it declares."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True)
    (place,) = folder.glob("lib/python*/site-packages")
    show(place, closure(requirement for requirement in requirements(wheel) if not requirement.marker))
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install", "--quiet", "--no-index", "--no-deps", str(wheel)]
    subprocess.run(pip, env=bare_environment(), capture_output=True, check=True)
    return folder / "bin"


def test_the_wheel_holds_the_library_and_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
    wanted = {path.relative_to(ROOT).as_posix() for path in (ROOT / "vrpo").rglob("*") if path.suffix in (".py", ".yaml", ".typed")}
    assert names == wanted and "vrpo/py.typed" in names


def test_the_source_distribution_says_what_it_is(built: Path) -> None:
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"CHANGELOG.md", "CITATION.cff", "README.md", "pyproject.toml", "vrpo/py.typed"} <= names
    assert not [name for name in names if name.startswith(("pipeline", "tests"))]


def test_what_only_the_pipeline_needs_is_an_extra(wheel: Path) -> None:
    plain, extra = set(), set()
    for requirement in requirements(wheel):
        (extra if requirement.marker else plain).add(canonicalize_name(requirement.name))
    assert not {canonicalize_name(name) for name in PIPELINE_ONLY} & plain
    assert {canonicalize_name(name) for name in PIPELINE_ONLY} <= extra


def test_every_module_can_be_imported_with_what_is_declared(bare: Path, tmp_path: Path) -> None:
    code = f"""
import importlib.util, json, pkgutil, vrpo
names = [module.name for module in pkgutil.walk_packages(vrpo.__path__, "vrpo.")]
for name in names: importlib.import_module(name)
there = [name for name in {(*PIPELINE_ONLY, "pipeline", "tests")} if importlib.util.find_spec(name)]
print(json.dumps([len(names), there, vrpo.__file__, [name for name in vrpo.__all__ if getattr(vrpo, name)]]))
"""
    done = subprocess.run([bare / "python", "-c", code], cwd=tmp_path, env=bare_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, there, file, names = yaml.safe_load(done.stdout)
    assert there == [] and Path(file).is_relative_to(bare.parent) and names == vrpo.__all__
    assert count == len([*(ROOT / "vrpo").rglob("*.py")]) - 1  # all but `vrpo` itself


def test_commands_work_where_the_pipeline_is_not(bare: Path, tmp_path: Path) -> None:
    reading_policy(tmp_path / "policy")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "1 + 1 ="}\n{"prompt": "2 + 2 ="}\n')
    (tmp_path / "mine.py").write_text("def length(completions, **_):\n    return [len(completion) for completion in completions]\n")
    score = "score --model policy --data prompts.jsonl --reward mine.py:length --samples 2 --max-new-tokens 4 --output scored.jsonl"
    said = {}
    for line in ("--help", "--version", score):
        done = subprocess.run([bare / "vrpo", *line.split()], cwd=tmp_path, env=bare_environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said[line.split()[0]] = done.stdout
    assert "score" in said["--help"] and said["--version"] == f"vrpo {vrpo.__version__}\n"
    assert said["score"].startswith("mean ") and "over 2 prompts x 2; 0.0% unscored" in said["score"]
    assert len((tmp_path / "scored.jsonl").read_text().splitlines()) == 4


def imported(package: str) -> set[str]:
    """What modules of a package import from outside it, anywhere in them."""
    found = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
            elif isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
    return found - sys.stdlib_module_names - {"vrpo", "pipeline"} - ASKED_FOR


@pytest.mark.parametrize(("package", "extras"), [("vrpo", ()), ("pipeline", ("pipeline",))])
def test_what_is_imported_is_declared(package: str, extras: tuple[str, ...]) -> None:
    """Not only brought along by something else: that may stop bringing it."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    declared = {canonicalize_name(Requirement(line).name) for line in lines} | {"pydantic-core"}  # a part of pydantic
    owners = packages_distributions()
    assert [name for name in imported(package) if not {canonicalize_name(owner) for owner in owners.get(name, ())} & declared] == []


def test_type_checkers_see_the_names_that_are_loaded_when_first_used() -> None:
    (block,) = (node for node in ast.parse((ROOT / "vrpo/__init__.py").read_text()).body if isinstance(node, ast.If))
    seen = {alias.asname: node.module for node in block.body for alias in node.names if alias.name == alias.asname}
    assert seen == vrpo._EXPORTS


def test_one_version_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == vrpo.__version__ and "https://arxiv.org/abs/2508.03058" in [one["url"] for one in citation["references"]]
    assert f"\n## {vrpo.__version__} " in (ROOT / "CHANGELOG.md").read_text()
