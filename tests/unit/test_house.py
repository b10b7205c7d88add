"""The size of what a reader must learn stays bounded."""

import doctest

from scripts import house
from tests.support.paths import PACKAGE, ROOT

MOST_ROOT_MODULES = 8
MOST_CONCEPTS = 25
MOST_README_WORDS = 1000


def test_class_names_are_unique() -> None:
    assert house.duplicate_classes(PACKAGE) == {}


def test_few_modules_lie_at_the_package_root() -> None:
    modules = [path.name for path in PACKAGE.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= MOST_ROOT_MODULES


def test_the_glossary_is_short() -> None:
    count = house.count_concepts(PACKAGE)
    assert count is not None
    assert 1 <= count <= MOST_CONCEPTS


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= MOST_README_WORDS


def test_the_examples_of_the_script_hold() -> None:
    assert doctest.testmod(house).failed == 0


def test_a_package_is_counted(tmp_path) -> None:
    package = tmp_path / "shop"
    (package / "goods").mkdir(parents=True)
    (package / "__init__.py").write_text('"""A shop."""\n')
    (package / "cash.py").write_text(
        "from shop.goods import cake\n\n\ndef pay():\n    cake.bake()\n"
    )
    (package / "goods" / "__init__.py").write_text("")
    (package / "goods" / "cake.py").write_text(
        f"class Cake:\n    '''{'x' * 100}'''\n\n\n"
        "def bake():\n    return _mix()\n\n\ndef _mix():\n    return Cake()\n"
    )
    folders = house.count_package(package)
    assert folders == {
        "(root)": house.Counts(lines=6, statements=3, modules=1),
        "goods": house.Counts(
            lines=10,
            statements=5,
            modules=1,
            classes=1,
            private=1,
            one_caller=1,
            one_importer=1,
            over_100=1,
        ),
    }
