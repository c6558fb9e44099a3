"""The distribution holds everything of the tree, declares what it imports, and nothing else."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email import message_from_string
from email.message import Message

import pytest

from tests.helpers import REPO

PACKAGES = ("diana", "diana_cli")
BUILD_FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
TREE_FILES = (
    *BUILD_FILES,
    "Makefile",
    "CHANGELOG.md",
    ".ci/run",
    ".gitignore",
    "docker/Dockerfile",
    "docker/compose.yml",
)
EXTRAS = {"images", "server", "distributed", "test", "all"}


def package_files() -> Iterator[str]:
    for package in PACKAGES:
        for path in sorted((REPO / package).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
                yield path.relative_to(REPO).as_posix()


def can_build_here() -> bool:
    """The SPDX licence of the metadata needs setuptools 77; else pip fetches one for the build."""
    return int(importlib.metadata.version("setuptools").partition(".")[0]) >= 77


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """Build the wheel from a copy, so that no stale `build` folder lends it files."""
    source = tmp_path_factory.mktemp("source")
    for package in PACKAGES:
        shutil.copytree(REPO / package, source / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    for name in BUILD_FILES:
        shutil.copy(REPO / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(source / "dist")]
    isolation = ["--no-build-isolation"] if can_build_here() else []
    done = subprocess.run([*command, *isolation, str(source)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]
    (built,) = (source / "dist").glob("python_diana-*.whl")
    with zipfile.ZipFile(built) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (entry for entry in wheel.namelist() if entry.endswith(".dist-info/METADATA"))
    return message_from_string(wheel.read(name).decode())


def test_wheel_holds_every_file_of_the_packages(wheel: zipfile.ZipFile) -> None:
    missing = set(package_files()) - set(wheel.namelist())
    assert not missing


def test_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_every_folder_with_code_is_a_package() -> None:
    folders = {(REPO / name).parent for name in package_files() if name.endswith(".py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]


def test_both_programs_are_the_same(wheel: zipfile.ZipFile) -> None:
    (name,) = (entry for entry in wheel.namelist() if entry.endswith(".dist-info/entry_points.txt"))
    parser = configparser.ConfigParser()
    parser.read_string(wheel.read(name).decode())
    assert dict(parser["console_scripts"]) == {"diana": "diana_cli.cli:main", "diana-cli": "diana_cli.cli:main"}


def test_metadata_names_licence_python_version_and_extras(metadata: Message, wheel: zipfile.ZipFile) -> None:
    namespace: dict[str, str] = {}
    for line in (REPO / "diana/__init__.py").read_text().splitlines():
        if line.startswith("__version__"):
            exec(line, namespace)
    assert metadata["Name"] == "python-diana"
    assert metadata["Version"] == namespace["__version__"]
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.10"
    assert set(metadata.get_all("Provides-Extra", [])) == EXTRAS
    assert [name for name in wheel.namelist() if name.endswith("/LICENSE")]


def imported_modules() -> dict[str, str]:
    """Return the top-level modules the packages import from elsewhere, each with a file that does."""
    found: dict[str, str] = {}
    for name in package_files():
        if not name.endswith(".py"):
            continue
        for node in ast.walk(ast.parse((REPO / name).read_text(), name)):
            if isinstance(node, ast.Import):
                found.update({alias.name.partition(".")[0]: name for alias in node.names})
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found[node.module.partition(".")[0]] = name
    return {module: where for module, where in found.items() if module not in {*sys.stdlib_module_names, *PACKAGES}}


def test_every_import_is_a_declared_requirement(metadata: Message) -> None:
    declared = {normal(requirement) for requirement in metadata.get_all("Requires-Dist", [])}
    distributions = importlib.metadata.packages_distributions()
    # what mypy needs comes with the types of others and is imported only for them
    typing_only = {"typing_extensions", "_typeshed"}
    undeclared = {
        module: where
        for module, where in imported_modules().items()
        if module not in typing_only and not declared & {normal(name) for name in distributions.get(module, [module])}
    }
    assert not undeclared


def normal(requirement: str) -> str:
    """Return the bare name of a requirement: `redis[hiredis]>=5` is `redis`."""
    name = requirement
    for mark in "[<>=!~; (":
        name = name.partition(mark)[0]
    return name.strip().lower().replace("_", "-").replace(".", "-")


@pytest.mark.parametrize("name", TREE_FILES)
def test_tree_has(name: str) -> None:
    assert (REPO / name).is_file()


@pytest.mark.parametrize("name", [".ci/run", "tools/install_servers.sh", "tools/make_venv.sh"])
def test_script_runs_and_is_well_formed(name: str) -> None:
    path = REPO / name
    assert path.stat().st_mode & 0o111
    shell = path.read_text().splitlines()[0].split()[-1].rpartition("/")[2]
    assert subprocess.run([shell, "-n", str(path)], timeout=20).returncode == 0


def test_every_module_of_utils_stands_in_a_layer() -> None:
    layers = (REPO / "pyproject.toml").read_text()
    names = {path.stem for path in (REPO / "diana/utils").iterdir() if path.suffix == ".py" or path.is_dir()}
    missing = [name for name in sorted(names - {"__init__", "__pycache__"}) if f"(diana.utils.{name})" not in layers]
    assert not missing
