"""The component: what `dg scaffold defs` writes loads, and its YAML translates assets."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster.components.testing import create_defs_folder_sandbox

from convo_pipeline import schema
from convo_pipeline.dagster import ConvoComponent
from convo_pipeline.schema import Table

pytestmark = [  # both warnings are about Dagster's own code
    pytest.mark.filterwarnings("ignore:`parse_obj_as` is deprecated"),
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
]


class WithOwner(ConvoComponent):
    """A component of the user that changes single assets."""

    def get_asset_spec(self, spec: dg.AssetSpec, table: Table) -> dg.AssetSpec:
        spec = super().get_asset_spec(spec, table)
        return spec.replace_attributes(owners=["team:crm"]) if table.name == "messages" else spec


def specs_of(
    attributes: dict[str, Any], component: type[ConvoComponent] = ConvoComponent
) -> dict[str, dg.AssetSpec]:
    """Scaffold a component, change its attributes, and return its assets."""
    with create_defs_folder_sandbox() as sandbox:
        folder = sandbox.scaffold_component(component_cls=component, defs_path="inbox")
        file = folder / "defs.yaml"
        content = yaml.safe_load(file.read_text())
        content["attributes"] |= attributes
        file.write_text(yaml.safe_dump(content))
        with sandbox.build_all_defs() as definitions:
            dg.Definitions.validate_loadable(definitions)
            return {
                spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()
            }


def test_the_scaffolded_files_load_under_the_name_of_their_folder() -> None:
    assert specs_of({}).keys() == {
        f"inbox/{name}" for name in (*schema.TABLES, "inboxes", "overview")
    }


def test_yaml_translates_every_asset_by_its_table() -> None:
    translation = {"key": "crm/{{ table.name }}", "group_name": "{{ table.layer }}_inbox"}
    specs = specs_of({"translation": translation, "include": ["messages"]})
    assert specs.keys() == {"inbox/inboxes"} | {
        f"crm/{name}"
        for name in ("raw_conversations", "raw_message_ids", "raw_message_details", "messages")
    }
    assert specs["crm/messages"].group_name == "normalised_inbox"
    assert [dep.asset_key.path for dep in specs["crm/messages"].deps] == [
        ["crm", "raw_message_details"]
    ]


def test_a_subclass_changes_single_assets() -> None:
    specs = specs_of({}, WithOwner)
    assert {key for key, spec in specs.items() if spec.owners} == {"inbox/messages"}


def test_the_package_registers_its_component() -> None:
    project = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    assert '[project.entry-points."dagster_dg_cli.registry_modules"]' in project
    assert 'convo_pipeline = "convo_pipeline.dagster"' in project


PROJECT = """
[project]
name = "shop"
version = "0.1.0"
requires-python = ">=3.11"
[tool.dg]
directory_type = "project"
[tool.dg.project]
root_module = "shop"
"""
CODE = """
from pathlib import Path
from dagster import definitions, load_from_defs_folder

@definitions
def defs():
    return load_from_defs_folder(path_within_project=Path(__file__).parent)
"""


@pytest.mark.slow
def test_dg_lists_scaffolds_and_checks_the_component(tmp_path: Path) -> None:
    """The command `dg` is in the extra `dev`."""
    source = tmp_path / "src" / "shop"
    (source / "defs").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (source / "__init__.py").touch()
    (source / "definitions.py").write_text(CODE)

    def dg_command(*arguments: str) -> str:
        environ = {
            **os.environ,
            "PYTHONPATH": str(tmp_path / "src"),
            "DG_CLI_CONFIG": str(tmp_path / "dg.toml"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        done = subprocess.run(
            ["dg", *arguments], cwd=tmp_path, env=environ, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "convo_pipeline.dagster.ConvoComponent" in dg_command("list", "components", "--json")
    dg_command("scaffold", "defs", "convo_pipeline.dagster.ConvoComponent", "inbox")
    assert {path.name for path in (source / "defs" / "inbox").iterdir()} == {
        "convo.toml",
        "defs.yaml",
    }
    dg_command("check", "yaml")
    dg_command("check", "defs")
    assert "inbox/messages" in dg_command("list", "defs", "--json")
