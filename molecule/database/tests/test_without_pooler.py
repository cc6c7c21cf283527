"""More requests at once than the server has connections, with each way to pool: they wait, and none fails.

The last file of the scenario: it leaves the site without PgBouncer.
"""

import re

import pytest
import yaml

SOCKETIO_OF_TEN = {"name": "socketio", "class": "socketio", "connections": 10}
# A way to pool, and what has to be set with it: without a pool each connection of the socketio worker counts.
MODES = {
    # The first, as the site was converged.
    "pgbouncer": lambda workers: {},
    "peewee": lambda workers: {},
    "none": lambda workers: {"throat_gunicorn_workers": [*workers[:2], SOCKETIO_OF_TEN]},
}


@pytest.fixture(scope="module")
def entries(scenario):
    """The worker entries of the inventory."""
    return next(iter(yaml.safe_load((scenario / "inventory/hosts.yml").read_text())["throat"]["hosts"].values()))["throat_gunicorn_workers"]


def application_share(output: str) -> int:
    """Server connections of the application, by the table that the run printed."""
    needed, _limit = re.search(r"sum\s+postgres_max_connections\s+(\d+) of (\d+)", output).groups()
    return int(needed) - 13


@pytest.fixture(scope="module", params=list(MODES))
def mode(request, run_site, entries, on_host):
    """The site with one way to pool: (its name, server connections that the budget grants)."""
    variables = {"throat_database_pooling": request.param, **MODES[request.param](entries)}
    if request.param == "pgbouncer":
        run = run_site(playbook="playbooks/budget.yml")
        assert "port: 6432" in on_host("cat /etc/throat/config.yaml")
    else:
        run = run_site(variables)
        assert run_site(variables, "--check").changed == 0
    return request.param, application_share(run.output)


def test_no_request_fails_and_the_budget_holds(mode, send_load, watch_connections):
    name, granted = mode
    with watch_connections() as counts:
        load = send_load()
    print(f"{name}: {load}; server connections: at most {max(counts)} of {granted} in {len(counts)} samples")
    assert load.failed == 0 and len(load.seconds) == 750
    assert 5 < max(counts) <= granted < 50


@pytest.fixture
def unbounded(mode, run_site, on_host, entries):
    """The site without a pool, and its gevent worker with gunicorn's default of connections, which the playbook would refuse."""
    variables = {"throat_database_pooling": "none", "throat_gunicorn_workers": [entries[0], SOCKETIO_OF_TEN, {**entries[1], "connections": 1000}]}
    refused = run_site(variables, check=False)
    assert refused.returncode != 0 and refused.changed == 0
    assert "postgres_max_connections on throat-stack-database: 50 is less than the 1025 connections that can reach the server" in refused.said
    on_host(
        "mkdir /etc/systemd/system/throat-gevent.service.d && cd /etc/systemd/system && "
        "(echo [Service]; echo ExecStart=; sed -n '/^ExecStart=/,/throat_prod/p' throat-gevent.service | sed 's/--worker-connections 20/--worker-connections 1000/') "
        "> throat-gevent.service.d/control.conf && systemctl daemon-reload && systemctl restart throat-gevent"
    )
    yield
    on_host("rm -r /etc/systemd/system/throat-gevent.service.d && systemctl daemon-reload && systemctl restart throat-gevent")


@pytest.mark.parametrize("mode", ["none"], indirect=True)
def test_control_without_pool_and_limit_fails(unbounded, send_load):
    load = send_load()
    print(f"control, no pool and worker_connections 1000: {load}")
    assert load.failed > 20
