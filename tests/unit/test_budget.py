"""The connection budget: a table of inventories with the expected verdict, and rules that hold for whatever is derived."""

import os
import pathlib
import subprocess

import pytest
import yaml
from ansible_collections.throat.stack.plugins.plugin_utils import budget
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = pathlib.Path(__file__).parents[2]
DATA = ROOT / "tests/data/budgets.yml"
CASES = yaml.safe_load(DATA.read_text())
SYNC = {"name": "sync", "class": "sync", "processes": 2}
GEVENT = {"name": "gevent", "class": "gevent", "connections": 40}
SOCKETIO = {"name": "socketio", "class": "socketio", "connections": 1000}
DEFAULTS = {"throat_gunicorn_workers": [GEVENT, SOCKETIO], "postgres_max_connections": 100}


def inventory(apps=1, poolers="own", servers=("db1",), workers=(SYNC, GEVENT, SOCKETIO), vars=None, hosts=None):
    """(hostvars, groups) of a case; every host has the variables of all, as in an inventory's group "throat"."""
    app_hosts = [f"app{number + 1}" for number in range(apps)]
    groups = {"throat_gunicorn": app_hosts, "pgbouncer": app_hosts if poolers == "own" else list(poolers), "postgres": list(servers)}
    common = {**(vars or {}), **({} if workers == "none" else {"throat_gunicorn_workers": workers if isinstance(workers, dict) else list(workers)})}
    return {host: {**common, **(hosts or {}).get(host, {})} for names in groups.values() for host in names}, groups


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_verdict_of_an_inventory(case):
    options = {key: case[key] for key in ("apps", "poolers", "servers", "workers", "vars", "hosts") if key in case}
    found = budget.connection_budget(*inventory(**options), DEFAULTS)
    said = "\n".join(found["violations"])
    assert bool(found["violations"]) == ("says" in case), said
    for part in case.get("says", ()):
        assert part in said
    for part in case.get("warns", ()):
        assert part in "\n".join(found["warnings"])
    assert bool(found["warnings"]) == ("warns" in case) or "says" in case, found["warnings"]
    if "sum" in case:
        assert found["table"].endswith(" " + case["sum"])


def test_table_of_inventories_is_long_enough_and_has_each_name_once():
    assert len({case["name"] for case in CASES}) == len(CASES) >= 40
    assert {True, False} == {"says" in case for case in CASES}


def test_hosts_that_are_alike_share_their_lines():
    table = budget.connection_budget(*inventory(apps=50), DEFAULTS)["table"]
    assert "app1 ... app50 (50 hosts, each)" in table and len(table.splitlines()) < 15


def test_app_hosts_without_a_pooler_are_spread_over_those_of_their_own():
    assert budget.assign_poolers(["a", "b", "c", "d"], ["a", "p", "q"]) == {"a": "a", "b": "p", "c": "q", "d": "p"}
    assert budget.assign_poolers(["a", "b"], ["a"]) == {"a": "a", "b": "a"}


numbers = st.integers(min_value=1, max_value=400)
worker_sets = st.builds(
    lambda sync, gevent, tabs: [
        *([{"name": "sync", "class": "sync", "processes": sync[0], "threads": sync[1]}] if sync else []),
        *([{"name": "gevent", "class": "gevent", "processes": gevent[0], "connections": gevent[1]}] if gevent else []),
        {"name": "socketio", "class": "socketio", "connections": tabs},
    ],
    st.none() | st.tuples(st.integers(1, 16), st.integers(1, 16)),
    st.none() | st.tuples(st.integers(1, 4), numbers),
    st.integers(1, 20000),
)
sites = st.fixed_dictionaries(
    {
        "apps": st.integers(1, 50),
        "poolers": st.sampled_from(["own", ["db1"], ["pool1", "pool2"], ["app1", "pool1"]]),
        "workers": worker_sets,
        "vars": st.fixed_dictionaries(
            {"throat_database_pooling": st.sampled_from(budget.POOLINGS)},
            optional={
                "throat_database_headroom": st.integers(0, 300),
                "postgres_settings": st.fixed_dictionaries({"superuser_reserved_connections": st.integers(0, 20)}),
                "pgbouncer_default_pool_size": numbers,
                "pgbouncer_reserve_pool_size": numbers,
                "pgbouncer_max_db_connections": st.integers(0, 400),
                "pgbouncer_databases": st.lists(st.just({"name": "throat"}), min_size=1, max_size=4),
                "pgbouncer_users": st.lists(st.just({"name": "throat"}), min_size=1, max_size=4),
            },
        ),
    }
)


@settings(max_examples=500, deadline=None)
@given(sites)
def test_derived_values_satisfy_every_rule(case):
    hostvars, groups = inventory(**case)
    read = budget.read_site(hostvars, groups, DEFAULTS)
    site = budget.derive(read)
    assert budget.violations(site) == []
    # What the operator set is kept.
    for before, after in zip(read.poolers, site.poolers):
        for option in budget.POOLER_OPTIONS:
            assert getattr(before, option) in (None, getattr(after, option))
    # The rules once more, added up by other means than the module's own.
    reach = sum(pooler.share for pooler in site.poolers)
    if site.pooling != "pgbouncer":
        reach = sum(worker.processes * (worker.pool if site.pooling == "peewee" else worker.each) for worker in site.workers)
    assert reach + site.headroom + site.superuser_reserved <= site.max_connections
    for pooler in site.poolers:
        theirs = [worker for worker in site.workers if site.pooler_of[worker.host] == pooler.host]
        assert sum(worker.processes * worker.each for worker in theirs) <= pooler.max_client_conn
        assert pooler.default_pool_size >= 1 and pooler.reserve_pool_size >= 0
    assert set(site.pooler_of) == (set(groups["throat_gunicorn"]) if site.pooling == "pgbouncer" else set())


@settings(max_examples=300, deadline=None)
@given(sites, st.integers(0, 3000))
def test_limit_that_is_set_is_refused_exactly_when_it_is_too_small(case, spare):
    """The smallest pools are one connection each; what is left above them is for the pools to share, and never overdrawn."""
    case["vars"] = {name: value for name, value in case["vars"].items() if not name.startswith("pgbouncer_")}
    hostvars, groups = inventory(**case)
    roomy = budget.derive(budget.read_site(hostvars, groups, DEFAULTS))
    least = (len(roomy.poolers) if roomy.pooling == "pgbouncer" else roomy.pooled) + roomy.kept
    for limit, fits in ((least + spare, True), (least - 1, False)):
        if limit < 1:
            continue
        for variables in hostvars.values():
            variables["postgres_max_connections"] = limit
        said = budget.violations(budget.derive(budget.read_site(hostvars, groups, DEFAULTS)))
        assert (said == []) == fits, said


@pytest.mark.parametrize("environment", ["test", "prod"])
def test_table_in_the_documentation_is_what_the_playbook_prints(environment):
    command = f"ansible-playbook -i inventories/{environment} playbooks/budget.yml"
    done = subprocess.run(command.split(), cwd=ROOT, env={**os.environ, "ANSIBLE_NOCOLOR": "1"}, capture_output=True, text=True, check=True)
    _, _, message = done.stdout.partition("msg: ")
    printed = [line.strip() for line in message[message.index("Connection budget") :].split("PLAY RECAP")[0].splitlines()]
    table = printed[: next(number for number, line in enumerate(printed) if line.startswith("sum ")) + 1]
    shown = (ROOT / "docs/databases.md").read_text().partition(f"\n{command}\n```\n\n```text\n")[2].partition("```")[0]
    assert [line.strip() for line in shown.strip().splitlines()] == table
