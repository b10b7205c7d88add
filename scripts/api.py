"""Write the page of the public Python API: `python -m scripts.api > docs/api.md`.

Public is what `__all__` of these modules names, and the class of the connection. All other modules
are internal.
"""

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import convo_pipeline
import convo_pipeline.dagster
from convo_pipeline import errors
from convo_pipeline.query.connection import Connection

MODULES = (convo_pipeline, convo_pipeline.dagster)
_INTRODUCTION = """\
# Python API

Written by `python -m scripts.api` from the docstrings; do not edit it by hand.
These names follow semantic versioning. All other modules are internal.
Examples: [analyse.md](analyse.md) and [dagster.md](dagster.md).
"""


def write_api() -> str:
    """Return the page."""
    parts = [_INTRODUCTION, *(part for module in MODULES for part in _describe_module(module))]
    parts += _describe(errors.__name__, errors, "")
    return "\n".join(parts)


def _describe_module(module: ModuleType) -> Iterator[str]:
    yield f"## {module.__name__}\n\n{inspect.getdoc(module)}\n"
    for name in sorted(module.__all__):
        yield from _describe(f"{module.__name__}.{name}", getattr(module, name), "#")
    if module is convo_pipeline:
        yield from _describe(Connection.__name__, Connection, "#")


def _describe(name: str, thing: Any, level: str) -> Iterator[str]:
    """Yield the section of a function, a class with its fields and methods, or the errors."""
    yield f"##{level} {name}\n"
    if inspect.ismodule(thing):
        yield f"```text\n{inspect.getdoc(thing)}\n```\n"
        return
    if inspect.isfunction(thing):
        yield f"```text\n{_signature(thing)}\n```\n"
    yield f"{inspect.getdoc(thing)}\n"
    if not inspect.isclass(thing):
        return
    if fields := list(_fields(thing)):
        yield "\n".join(["| field | default | meaning |", "|---|---|---|", *fields]) + "\n"
    for key, method in vars(thing).items():
        is_alias = getattr(method, "__name__", "") != key
        if inspect.isfunction(method) and method.__doc__ and not (is_alias or key.startswith("_")):
            yield f"```text\n{_signature(method)}\n```\n\n{inspect.getdoc(method)}\n"


def _signature(function: Any) -> str:
    """Return the signature as it is written in the source."""
    source = textwrap.dedent(inspect.getsource(function))
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.FunctionDef)
    lines = source.splitlines()[node.lineno - 1 : node.body[0].lineno - 1]
    return "\n".join(lines).removeprefix("def ").removesuffix(":")


def _fields(model: type) -> Iterator[str]:
    """Yield a row for each declared field, with the text below it or in its `Field`."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(node, ast.ClassDef)
    for field, text in zip(node.body, node.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            info = model.model_fields[field.target.id]  # type: ignore[attr-defined]
            meaning = info.description
            if not meaning and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                meaning = str(text.value.value)
            default = repr(info.default).replace("'", '"')
            yield f"| `{field.target.id}` | `{default}` | {' '.join((meaning or '').split())} |"


if __name__ == "__main__":
    sys.stdout.write(write_api())
