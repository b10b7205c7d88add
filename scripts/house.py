"""Count what a reader of a Python package must learn: lines, modules, classes, private functions.

    python -m scripts.house                                  # convo_pipeline, one row a folder
    python -m scripts.house --total PATH/httpx PATH/stamina  # one row a package

Columns:

- lines: all lines of the folder's `.py` files.
- statements: statements without docstrings. The number does not depend on the line length.
- modules: files, without an `__init__.py` that holds only a docstring.
- classes: class definitions at any depth.
- private: functions and methods whose name begins with one underscore.
- one caller: private functions that exactly one other function or module body of their module uses.
- one importer: modules that exactly one other module of the package imports.
- over 100: lines longer than 100 columns.
- concepts: entries of the glossary, `docs/glossary.md` beside the package.
"""

import argparse
import ast
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "convo_pipeline"
OWN_TWIN = "emulator"
"""The folder that stands for Meta's servers. The total is also given without it."""
COLUMNS = 100
ROOT_FOLDER = "(root)"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Counts:
    """The figures of one or more modules."""

    lines: int = 0
    statements: int = 0
    modules: int = 0
    classes: int = 0
    private: int = 0
    one_caller: int = 0
    one_importer: int = 0
    over_100: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            *(getattr(self, field.name) + getattr(other, field.name) for field in fields(self))
        )


def count_package(package: Path) -> dict[str, Counts]:
    """Return the figures of each folder of a package; the root's own modules are `(root)`."""
    trees = {path: ast.parse(path.read_text("utf-8")) for path in sorted(package.rglob("*.py"))}
    importers = count_importers(package, trees)
    folders: dict[str, Counts] = defaultdict(Counts)
    for path, tree in trees.items():
        parts = path.relative_to(package).parts
        folder = parts[0] if len(parts) > 1 else ROOT_FOLDER
        folders[folder] += count_module(path, tree, importers[path])
    return dict(sorted(folders.items()))


def count_module(path: Path, tree: ast.Module, importer_count: int) -> Counts:
    """Return the figures of one module."""
    lines = path.read_text("utf-8").splitlines()
    statements = [
        node for node in ast.walk(tree) if isinstance(node, ast.stmt) and not is_docstring(node)
    ]
    private = private_functions(tree)
    callers = count_callers(tree)
    is_module = path.name != "__init__.py" or bool(statements)
    return Counts(
        lines=len(lines),
        statements=len(statements),
        modules=int(is_module),
        classes=sum(isinstance(node, ast.ClassDef) for node in statements),
        private=len(private),
        one_caller=sum(callers[name] == 1 for name in private),
        one_importer=int(is_module and importer_count == 1),
        over_100=sum(len(line) > COLUMNS for line in lines),
    )


def is_docstring(node: ast.stmt) -> bool:
    """Return whether a statement is only a string.

    >>> [is_docstring(node) for node in ast.parse("'text'; x = 'text'").body]
    [True, False]
    """
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def private_functions(tree: ast.Module) -> list[str]:
    """Return the names of the functions and methods that begin with one underscore.

    >>> private_functions(ast.parse("def _a(): ...\\ndef b(): ...\\ndef __c__(): ..."))
    ['_a']
    """
    return [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, FUNCTIONS) and re.match(r"_(?!_)", node.name)
    ]


def count_callers(tree: ast.Module) -> Counter[str]:
    """Return for each name how many functions use it; the module's own body counts as one.

    A function that uses its own name is not a caller.

    >>> count_callers(ast.parse("def f():\\n    g()\\n    g()\\n    f()\\ng()"))["g"]
    2
    """
    users: Counter[str] = Counter()
    for function in (tree, *(node for node in ast.walk(tree) if isinstance(node, FUNCTIONS))):
        own_name = getattr(function, "name", None)
        users.update({name for name in names_used(function) if name != own_name})
    return users


def names_used(function: ast.AST) -> Iterator[str]:
    """Yield the names and attributes in a function, without those of the functions inside it."""
    for node in ast.iter_child_nodes(function):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        if not isinstance(node, FUNCTIONS):
            yield from names_used(node)


def count_importers(package: Path, trees: dict[Path, ast.Module]) -> dict[Path, int]:
    """Return for each module how many other modules of the package import it."""
    paths = {".".join(module_name(package, path)): path for path in trees}
    importers: dict[Path, set[Path]] = {path: set() for path in trees}
    for path, tree in trees.items():
        for name in imported_names(tree, module_name(package, path), path.name == "__init__.py"):
            target = paths.get(name)
            if target not in (None, path):
                importers[target].add(path)
    return {path: len(users) for path, users in importers.items()}


def module_name(package: Path, path: Path) -> tuple[str, ...]:
    """Return the parts of a module's dotted name.

    >>> module_name(Path("a/pkg"), Path("a/pkg/sub/__init__.py"))
    ('pkg', 'sub')
    """
    parts = path.relative_to(package.parent).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imported_names(tree: ast.Module, module: tuple[str, ...], is_package: bool) -> Iterator[str]:
    """Yield the absolute names that a module imports, of modules and of what they hold."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module[: len(module) - node.level + is_package] if node.level else ()
            base = ".".join((*parents, *filter(None, [node.module])))
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def count_concepts(package: Path) -> int | None:
    """Return the number of rows of the glossary's table, or None where there is no glossary."""
    glossary = package.parent / "docs" / "glossary.md"
    if not glossary.is_file():
        return None
    return len(re.findall(r"^\| \*\*", glossary.read_text("utf-8"), re.M))


def duplicate_classes(package: Path) -> dict[str, list[str]]:
    """Return the class names that more than one class of the package has, with their modules."""
    modules: dict[str, list[str]] = defaultdict(list)
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                modules[node.name].append(str(path.relative_to(package)))
    return {name: paths for name, paths in modules.items() if len(paths) > 1}


def write_table(rows: dict[str, Counts]) -> str:
    """Return the rows as a Markdown table."""
    heads = ["", *(field.name.replace("_", " ") for field in fields(Counts))]
    cells = [
        [name, *(f"{getattr(row, field.name):,}" for field in fields(row))]
        for name, row in rows.items()
    ]
    widths = [max(len(row[index]) for row in [heads, *cells]) for index in range(len(heads))]
    lines = [
        "| " + " | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in [heads, *cells]
    ]
    rule = "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packages", type=Path, nargs="*", default=[PACKAGE])
    parser.add_argument("--total", action="store_true", help="print one row a package")
    arguments = parser.parse_args()
    totals: dict[str, Counts] = {}
    for package in arguments.packages:
        folders = count_package(package)
        total = sum(folders.values(), Counts())
        totals[package.name] = total
        if OWN_TWIN in folders:
            without = (counts for name, counts in folders.items() if name != OWN_TWIN)
            totals[f"{package.name} without {OWN_TWIN}"] = sum(without, Counts())
        if not arguments.total:
            print(write_table({**folders, **totals}))
            totals = {}
    if totals:
        print(write_table(totals))
    for package in arguments.packages:
        concepts = count_concepts(package)
        if concepts is not None:
            print(f"\n{package.name}: {concepts} concepts in the glossary")


if __name__ == "__main__":
    sys.exit(main())
