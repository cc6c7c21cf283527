"""Wrong input stops the run with one clear line, before any host is changed."""

import json
import os
import pathlib
import subprocess
import sys

import ansible
import pytest

from conftest import ROOT

SOCKETIO = {"name": "socketio", "class": "socketio"}


# All that is wrong is said by one run, but for what only a second look can tell: at the plan, when each value by itself is right, and at the host, when the plan is.
WRONG = {
    "values": (
        {
            "nginx_sever_name": "x",
            "postgress_port": 5433,
            "throat_gunicorn_source": "/nowhere",
            "throat_database_pooling": "pgpool",
            "throat_gunicorn_workers": [{"name": "w", "class": "gevnt"}, {**SOCKETIO, "processes": 2}],
            "throat_redis_password": "",
            "throat_secret_key": "change-me",
            "throat_public_url": "throat.example.com",
            "throat_database_password": "pässword",
        },
        [
            "nginx_sever_name: no such variable; did you mean nginx_server_name?",
            "postgress_port: no such variable; did you mean postgres_port?",
            "throat_gunicorn_source: /nowhere is no directory of this machine",
            "throat_database_pooling: pgpool, but must be one of pgbouncer, peewee, none",
            "worker w: class is gevnt, but must be one of sync, gevent, socketio",
            "always exactly 1 process",
            "throat_redis_password: not set, but required",
            "throat_secret_key: still the example's change-me",
            "throat_public_url: throat.example.com is no address",
            "throat_database_password: the password of throat has characters outside ASCII",
        ],
    ),
    "plan": (
        {"throat_gunicorn_source_type": "image", "throat_gunicorn_workers": [{"name": "sync", "class": "sync"}], "postgres_max_connections": 13},
        [
            "throat_gunicorn_source_type: image, but with throat_gunicorn_runtime native the workers do not run in containers",
            "no gevent or socketio worker",
            "postgres_max_connections on throat-stack-default: 13 is less than the 14 connections that can reach the server",
        ],
    ),
    "host": (
        {
            "nginx_tls_mode": "files", "nginx_tls_certificate": "/etc/ssl/certs/throat.pem", "nginx_tls_key": "/etc/ssl/private/mine.key",
            "redis_port": 5432, "throat_backup_key": "another-Value-of-backup_key",
        },
        [
            "nginx_tls_mode: files, but throat-stack-default has no /etc/ssl/private/mine.key",
            "redis_port: 5432 of throat-stack-default is taken by postgres",
            # What is in the repository already is not encrypted anew.
            "was encrypted with another key",
        ],
    ),
}


@pytest.mark.parametrize(("variables", "said"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_refused_by_a_line_for_each_before_anything_changes(run_site, secrets, variables, said):
    run = run_site(variables, "-vvv", "--diff", check=False)
    assert run.returncode != 0 and run.changed == 0 and "argument_spec_data" not in run.output
    assert [line for line in said if line not in run.said] == []
    new = [value for name, value in variables.items() if name in ("throat_database_password", "throat_backup_key")]
    assert [secret for secret in [*secrets.values(), *new] if secret in run.output] == []


def test_setting_that_the_application_does_not_have_is_named(run_site):
    run = run_site({"throat_gunicorn_site_settings": {"requires_captchas": False}}, check=False)
    assert run.returncode != 0 and run.changed == 0
    assert "throat_gunicorn_site_settings: requires_captchas: Throat has no such setting; did you mean require_captchas?" in run.said


def test_missing_secrets_of_the_production_inventory_are_named(run_site):
    run = run_site(inventory=ROOT / "inventories/prod", check=False)
    assert run.returncode != 0 and run.changed == 0
    for name in ("database_password", "redis_password", "secret_key", "admin_password"):
        assert f"throat_{name}: not set, but required" in run.said
    assert "keep it in a vault" in run.said


@pytest.fixture
def ubuntu(host):
    """The host says that it is Ubuntu."""
    host.check_output("cp --remove-destination /usr/lib/os-release /etc/os-release.kept")
    host.check_output(
        "rm /etc/os-release && printf 'NAME=Ubuntu\\nID=ubuntu\\nVERSION_ID=\"24.04\"\\nVERSION_CODENAME=noble\\n' > /etc/os-release"
    )
    yield
    host.check_output("rm /etc/os-release /etc/os-release.kept && ln -s ../usr/lib/os-release /etc/os-release")


def test_platform_that_is_not_supported_is_refused(run_site, ubuntu):
    run = run_site(check=False)
    assert run.returncode != 0 and run.changed == 0
    assert "runs Ubuntu 24.04 (noble), but the role postgres supports Debian bookworm and trixie" in run.said


def test_ansible_core_that_is_too_old_is_refused(run_site):
    old = ROOT / ".cache/ansible-2.18"
    if not (old / "bin/ansible-playbook").exists():
        subprocess.run([sys.executable, "-m", "venv", old], check=True)
        subprocess.run([old / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "ansible-core==2.18.*"], check=True)
    # The community's collections are at hand, as in the package "ansible" of that time.
    collections = f"{ROOT / '.ansible/collections'}:{pathlib.Path(ansible.__file__).parents[1]}"
    run = run_site(check=False, program=old / "bin/ansible-playbook", env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": collections})
    assert run.returncode != 0 and run.changed == 0
    assert "ansible-core is 2.18." in run.said and "but throat.stack needs 2.19.0 or later" in run.said


def test_move_from_nowhere_and_to_itself_is_refused(run_site, tmp_path, hosts):
    # All that is refused by two hosts is in molecule/move; what each line says, in the unit tests.
    run = run_site(playbook="playbooks/move.yml", check=False)
    assert run.returncode != 0 and run.changed == 0
    assert "throat_old: no host of the inventory is in this group" in run.said
    alias = {"ansible_host": hosts["throat"][0], "ansible_connection": "community.docker.docker", "ansible_python_interpreter": "/usr/bin/python3", "ansible_user": "root"}
    (tmp_path / "old.yml").write_text(json.dumps({"throat_old": {"hosts": {"old1": alias}}}))
    run = run_site(None, "-i", str(tmp_path / "old.yml"), playbook="playbooks/move.yml", check=False)
    assert run.returncode != 0 and run.changed == 0
    assert f"throat_old: old1 and {hosts['throat'][0]} have the same PostgreSQL, and nothing would move" in run.said
