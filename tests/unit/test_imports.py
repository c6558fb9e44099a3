"""Imports inside functions cannot break each other in threads."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.helpers import REPO

FILES = sorted((REPO / "diana").rglob("*.py"))
BLOCKS = (ast.FunctionDef, ast.AsyncFunctionDef)


def lonely(tree: ast.Module) -> Iterator[int]:
    """Yield the lines of functions that import a module of pydicom before they make sure of pydicom."""
    for function in (node for node in ast.walk(tree) if isinstance(node, BLOCKS)):
        safe = [
            node.lineno
            for node in ast.walk(function)
            if (isinstance(node, ast.Import) and any(one.name == "pydicom" for one in node.names))
            or (isinstance(node, ast.ImportFrom) and node.module == "pydicom")
            or (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "parent_first")
        ]
        for node in ast.walk(function):
            is_module = isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pydicom.")
            if is_module and not any(line < node.lineno for line in safe):
                yield node.lineno


def test_the_parent_of_a_module_of_pydicom_is_imported_first() -> None:
    found = {str(path.relative_to(REPO)): list(lonely(ast.parse(path.read_text()))) for path in FILES}
    assert {path: lines for path, lines in found.items() if lines} == {}
