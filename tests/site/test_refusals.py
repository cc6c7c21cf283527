"""Wrong input stops the run with one clear line, before any host is changed."""

import json
import subprocess

import pytest

SOCKETIO = {"name": "socketio", "class": "socketio"}


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"nginx_sever_name": "x"}, "nginx_sever_name: no such variable; did you mean nginx_server_name?"),
        ({"throat_gunicorn_workers": [{"name": "w", "class": "gevnt"}, SOCKETIO]}, "one of: sync, gevent, socketio, got: gevnt"),
        ({"throat_gunicorn_workers": [{**SOCKETIO, "processes": 2}]}, "always exactly 1 process"),
        ({"throat_gunicorn_workers": [{"name": "sync", "class": "sync"}]}, "no gevent or socketio worker"),
        ({"throat_redis_password": ""}, "throat_redis_password: not set, but required"),
    ],
    ids=["misspelt", "class", "processes", "no-async", "secret"],
)
def test_wrong_input_is_refused_before_anything_changes(variables, said):
    result = subprocess.run(
        ["ansible-playbook", "-i", "tests/site/inventory", "playbooks/site.yml", "-e", json.dumps(variables)],
        capture_output=True,
        text=True,
        check=False,
    )
    output = " ".join((result.stdout + result.stderr).split())
    assert result.returncode != 0 and said in output
    assert "changed=0" in output and "argument_spec_data" not in output
    assert not any(f"changed={number}" in output for number in range(1, 10))
