"""Wrong variables of the site as a whole are refused with one clear line."""

import pytest
import yaml
from ansible_collections.throat.stack.plugins.plugin_utils.arguments import argument_errors


@pytest.fixture
def site_spec():
    with open("playbooks/vars/site_spec.yml", encoding="utf-8") as stream:
        return yaml.safe_load(stream)


def test_missing_secret_of_the_site_is_named(site_spec):
    lines = argument_errors(site_spec, {"throat_public_url": "https://x", "throat_redis_password": "a", "throat_secret_key": "b", "throat_admin_password": "c"})
    assert lines == ["throat_database_password: not set, but required (Password of the site's database role). It is a secret: keep it in a vault."]
