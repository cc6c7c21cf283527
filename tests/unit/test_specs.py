"""Each role's defaults are those of its argument specification."""

import pathlib

import pytest
import yaml

ROLES = sorted((pathlib.Path(__file__).parents[2] / "roles").iterdir())


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_defaults_and_specification_agree(role):
    options = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    defaults = yaml.safe_load((role / "defaults/main.yml").read_text())
    assert set(defaults) <= set(options)
    assert all(name.startswith(f"{role.name}_") for name in options)
    for name, option in options.items():
        if "default" in option and option["default"] != "see defaults/main.yml":
            assert defaults[name] == option["default"], name
