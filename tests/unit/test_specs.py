"""Each role's defaults and the table of variables are those of its argument specification."""

import pathlib
import subprocess
import sys

import pytest
import yaml
from ansible_collections.throat.stack.plugins.plugin_utils import budget, workers

ROOT = pathlib.Path(__file__).parents[2]
ROLES = sorted((ROOT / "roles").iterdir())


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_defaults_and_specification_agree(role):
    options = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    defaults = yaml.safe_load((role / "defaults/main.yml").read_text())
    assert set(defaults) <= set(options)
    assert all(name.startswith(f"{role.name}_") for name in options)
    for name, option in options.items():
        if "default" in option:
            assert defaults[name] == option["default"], name


def test_table_of_variables_is_that_of_the_specifications():
    made = subprocess.run([sys.executable, ROOT / "bin/variables"], check=True, capture_output=True, text=True).stdout
    assert (ROOT / "docs/variables.md").read_text() == made, "run: make docs"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_roles_have_the_same_files(role):
    named = {path.name for path in (role / "tasks").iterdir()}
    own = {"release.yml", "switch.yml"} if role.name == "throat_gunicorn" else {"configure.yml", "service.yml"}
    assert {"main.yml", "validate.yml", "install.yml", *own} <= named


def test_what_the_arithmetic_knows_of_a_variable_is_what_its_specification_says():
    role = yaml.safe_load((ROOT / "roles/throat_gunicorn/meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    site = yaml.safe_load((ROOT / "playbooks/vars/site_spec.yml").read_text())["argument_specs"]["main"]["options"]
    assert set(workers.OPTIONS) == set(role["throat_gunicorn_workers"]["options"])
    assert budget.Site.pool_timeout == role["throat_gunicorn_database_pool_timeout"]["default"]
    assert budget.Site.headroom == site["throat_database_headroom"]["default"]
    assert list(budget.POOLINGS) == site["throat_database_pooling"]["choices"]
