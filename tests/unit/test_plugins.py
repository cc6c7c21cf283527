"""The pure functions behind the filters."""

import copy
import hashlib
import importlib.util
import io
import json
import os
import pathlib
import subprocess
import time
import types

import pytest
import yaml
from ansible_collections.throat.stack.plugins.module_utils import clusters
from ansible_collections.throat.stack.plugins.modules import look, source_archive
from ansible_collections.throat.stack.plugins.plugin_utils import arguments, build, database, looked, move, routes, topology, workers

ROOT = pathlib.Path(__file__).parents[2]
SPEC = {
    "argument_specs": {
        "main": {
            "options": {
                "nginx_server_name": {"type": "str", "description": "Name"},
                "nginx_port": {"type": "int", "description": "Port"},
                "nginx_password": {"type": "str", "required": True, "no_log": True, "description": "Secret of nginx"},
                "nginx_users": {
                    "type": "list",
                    "elements": "dict",
                    "description": "Users",
                    "options": {"password": {"type": "int", "no_log": True, "description": "Secret"}},
                },
            }
        }
    }
}


OPTIONS = SPEC["argument_specs"]["main"]["options"]


def errors(**variables):
    return arguments.convert(OPTIONS, variables)[1]


def test_valid_arguments_have_no_errors():
    assert errors(nginx_port="443", nginx_server_name="a") == []


def test_misspelt_variable_is_named_with_the_nearest_known_one():
    assert errors(nginx_sever_name="a") == ["nginx_sever_name: no such variable; did you mean nginx_server_name?"]


def test_missing_secret_is_named_with_its_remedy():
    (line,) = arguments.missing(OPTIONS, {"nginx_password": ""})
    assert line == "nginx_password: not set, but required (Secret of nginx). It is a secret: keep it in a vault."


def test_secret_of_the_example_is_refused():
    (line,) = errors(nginx_password="change-me")
    assert line.startswith("nginx_password: still the example's change-me;")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("postgress_port", "postgres_port"), ("postgresql_port", "postgres_port"), ("ngnix_port", "nginx_port"), ("nginx_port", None), ("nginx_sever", None), ("port", None), ("mysql_port", None)],
)
def test_misspelt_role_is_recognised_by_the_rest_of_the_name(name, meant):
    lines = arguments.misspelt_prefixes([name], {"postgres_port", "nginx_port"})
    assert lines == ([f"{name}: no such variable; did you mean {meant}?"] if meant else [])


META = {"galaxy_info": {"platforms": [{"name": "Debian", "versions": ["bookworm", "trixie"]}]}}


@pytest.mark.parametrize(
    ("distribution", "version", "release", "supported"),
    [("Debian", "12.5", "bookworm", True), ("Debian", "13", "trixie", True), ("Debian", "11", "bullseye", False), ("Ubuntu", "24.04", "noble", False)],
)
def test_platform_is_one_of_the_role(distribution, version, release, supported):
    facts = {"distribution": distribution, "distribution_version": version, "distribution_release": release}
    lines = arguments.platform_errors([("nginx", META)], "web1", facts)
    assert lines == [] if supported else lines[0].startswith(f"web1 runs {distribution} {version} ({release}), but the role nginx supports Debian bookworm and trixie")


def test_wrong_type_is_named():
    (line,) = errors(nginx_port="many")
    assert "nginx_port" in line and "many" in line


def test_secrets_are_masked_at_any_depth():
    (line,) = errors(nginx_users=[{"password": "hunter2"}])
    assert "hunter2" not in line and "********" in line


def test_verifier_is_that_of_the_rfc():
    # RFC 7677 section 3: user "user", password "pencil"; keys as PostgreSQL stores them.
    import base64

    made = database.verifier("pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)
    assert made == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )


def test_verifier_is_stable_and_differs_by_role_and_password():
    assert database.scram_verifier("a", "x") == database.scram_verifier("a", "x")
    assert len({database.scram_verifier(p, r) for p in "ab" for r in "xy"}) == 4


def test_verifier_refuses_what_it_cannot_prepare():
    with pytest.raises(ValueError, match="outside ASCII"):
        database.scram_verifier("pässword", "x")


@pytest.mark.parametrize("memory", [512, 1024, 16384, 262144])
def test_memory_fits(memory):
    made = {name: int(value[:-2]) for name, value in database.postgres_memory(memory, 100).items()}
    assert made["shared_buffers"] <= max(128, memory / 4) and made["work_mem"] >= 4


GOOD = [{"name": "sync", "class": "sync"}, {"name": "socketio", "class": "socketio"}]


@pytest.mark.parametrize(
    "entries",
    [
        [{"name": "s", "class": "socketio"}],
        [{"name": "s", "class": "socketio"}, {"name": "g", "class": "gevent"}],
        GOOD,
        [*GOOD, {"name": "g", "class": "gevent", "connections": 10}],
    ],
)
def test_every_worker_set_of_the_design_is_accepted(entries):
    assert workers.worker_errors(entries) == []


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([*GOOD, {"name": "x", "class": "gevnt"}], "worker x: class is gevnt, but must be one of sync, gevent, socketio"),
        ([{"name": "s", "class": "socketio", "processes": 2}], "always exactly 1 process"),
        ([{"name": "a", "class": "sync"}], "no gevent or socketio worker"),
        ([{"name": "a", "class": "gevent"}], "no socketio worker"),
        ([*GOOD, {"name": "t", "class": "socketio"}], "two workers of class socketio"),
        ([*GOOD, {"name": "sync", "class": "gevent"}], "named twice"),
        ([*GOOD, {"name": "A b", "class": "gevent"}], "rename it"),
        ([*GOOD, {"name": "follow-redis", "class": "gevent"}], "belongs to a unit of ours; rename it"),
        ([*GOOD, {"name": "g", "class": "gevent", "connections": 0}], "must be a whole number of 1 or more"),
        ([*GOOD, {"name": "g", "class": "gevent", "threads": 4}], "only a sync worker has threads"),
    ],
)
def test_impossible_worker_sets_are_refused_with_one_line(entries, said):
    (line,) = workers.worker_errors(entries)
    assert said in line and "\n" not in line


def test_entries_of_a_class_share_an_upstream_and_websockets_stay_with_one_server():
    entries = workers.complete_workers([*GOOD, {"name": "more", "class": "sync", "listen": "10.0.0.5:5000"}])
    assert workers.upstreams([entries]) == [
        {"name": "sync", "servers": ["unix:/run/throat/sync.sock", "10.0.0.5:5000"], "sticky": False},
        {"name": "socketio", "servers": ["unix:/run/throat/socketio.sock"], "sticky": False},
    ]
    hosts = [workers.complete_workers(GOOD, address) for address in ("10.0.0.5", "2001:db8::6")]
    assert workers.upstreams(hosts) == [
        {"name": "sync", "servers": ["10.0.0.5:5000", "[2001:db8::6]:5000"], "sticky": False},
        {"name": "socketio", "servers": ["10.0.0.5:5002", "[2001:db8::6]:5002"], "sticky": True},
    ]


def test_units_are_a_socket_and_a_service_per_worker_and_one_that_follows_redis():
    entries = workers.complete_workers(GOOD)
    named = [unit["name"] for unit in workers.units(entries)]
    assert named == ["throat-sync.socket", "throat-sync.service", "throat-socketio.socket", "throat-socketio.service", "throat-follow-redis.service"]


def found_sockets(listening: dict[str, str]) -> dict:
    """What the look has found of socket units, {"throat-sync": address}, beside a service and somebody else's."""
    files = {f"/etc/systemd/system/{unit}.socket": {"is_ours": True, "content": f"[Socket]\nListenStream={address}\nBacklog=1\n"} for unit, address in listening.items()}
    other = {"is_ours": False, "content": "ListenStream=/run/other.sock\n"}
    return {**files, "/etc/systemd/system/throat-other.socket": other, "/etc/systemd/system/throat-sync.service": {"is_ours": True}}


@pytest.mark.parametrize(
    ("listening", "units"),
    [
        ({}, ["throat-sync", "throat-socketio"]),
        ({"throat-sync": "10.0.0.5:5000"}, ["throat-sync", "throat-socketio"]),
        # One that moves keeps the old address, until nginx has been told of the new one; and so does one whose run was interrupted in between.
        ({"throat-sync": "/run/throat/sync.sock", "throat-socketio": "10.0.0.5:5002"}, ["throat-sync_2", "throat-socketio"]),
        ({"throat-sync": "/run/throat/sync.sock", "throat-sync_2": "10.0.0.5:5000"}, ["throat-sync_2", "throat-socketio"]),
        ({"throat-sync_2": "10.0.0.5:5000"}, ["throat-sync_2", "throat-socketio"]),
        ({"throat-sync": "/run/throat/sync.sock", "throat-sync_2": "10.0.0.5:6000"}, ["throat-sync_3", "throat-socketio"]),
        ({"throat-sync_2": "10.0.0.5:6000"}, ["throat-sync", "throat-socketio"]),
    ],
)
def test_worker_that_moves_opens_a_second_socket(listening, units):
    entries = workers.name_sockets(workers.complete_workers(GOOD, "10.0.0.5"), found_sockets(listening))
    assert [entry["socket"] for entry in entries] == units
    assert [unit["name"] for unit in workers.units(entries)][:2] == [f"{units[0]}.socket", "throat-sync.service"]


def test_worker_that_restarts_is_stood_in_for_at_the_sockets_that_it_has():
    entries = workers.name_sockets(workers.complete_workers(GOOD), found_sockets({"throat-sync": "/run/throat/sync.sock", "throat-sync_2": "10.0.0.5:6000"}))
    assert [entry["open"] for entry in entries] == [["throat-sync", "throat-sync_2"], []]
    socket, service = workers.stand_in_units(entries[0], entries[0]["open"], runtime="container")
    assert (socket["name"], service["name"], service["template"]) == ("throat-sync_next.socket", "throat-sync_next.service", "throat-container.service.j2")
    assert (service["worker"]["listen"], service["worker"]["shares"]) == ("/run/throat/sync_next.sock", ["throat-sync", "throat-sync_2"])


def test_worker_that_takes_the_address_of_another_is_refused():
    entries = workers.complete_workers([{"name": "fast", "class": "sync"}, {"name": "more", "class": "sync"}, *GOOD[1:]], "10.0.0.5")
    assert [entry["listen"] for entry in entries] == ["10.0.0.5:5000", "10.0.0.5:5003", "10.0.0.5:5002"]
    (line,) = workers.socket_errors(entries, found_sockets({"throat-sync_2": "10.0.0.5:5000", "throat-socketio": "10.0.0.5:5002"}), "app1")
    assert line.startswith("throat_gunicorn_workers: worker fast: 10.0.0.5:5000 of app1 is where throat-sync_2.socket listens")
    files = found_sockets({"throat-sync": "10.0.0.5:5000"})
    roles = {"site": {"apps": ["db1"], "name": "throat"}, "throat_gunicorn": {"runtime": "native", "workers": [{"name": "fast", "class": "sync"}], "listen_address": "10.0.0.5", "listen_port": 5000}}
    assert len(looked.host_errors(roles, {**FACTS, "files": files}, "db1", {})) == 1
    assert looked.host_errors({**roles, "site": {"apps": ["app1"], "name": "throat"}}, {**FACTS, "files": files}, "db1", {}) == []


def test_everything_of_a_second_site_is_named_after_it():
    site = workers.site_name("test")
    assert (workers.site_name("production"), site) == ("throat", "throat_test")
    (entry,) = workers.complete_workers([{"name": "sync", "class": "sync"}], site=site)
    assert entry["listen"] == "/run/throat_test/sync.sock"
    named = [unit["name"] for unit in workers.units([entry], site)]
    assert named == ["throat_test-sync.socket", "throat_test-sync.service", "throat_test-follow-redis.service"]
    modified = {"/run/throat_test/throat_test-sync.started": 9.0, "/etc/systemd/system/throat_test-sync.service": 5.0}
    assert workers.worker_states([entry], modified, ["/etc/throat_test/config.yaml"], 5.0, [], site) == {"sync": "started"}
    assert workers.worker_states([entry], {"/run/throat/throat-sync.started": 9.0}, ["/etc/throat_test/config.yaml"], 5.0, [], site) == {"sync": "reloaded"}


LOCKED = "a-b==1 \\\n    --hash=sha256:00\npyyaml==5.4.1 ; python_version >= '3' \\\n    --hash=sha256:11\nz==2 \\\n    --hash=sha256:22\n"


def test_requirements_are_overridden_by_normalised_name():
    made = build.override_requirements(LOCKED, ["PyYAML==6.0.2", "not-there==1"])
    assert made == {"locked": "a-b==1 \\\n    --hash=sha256:00\nz==2 \\\n    --hash=sha256:22\n", "overrides": "PyYAML==6.0.2\n"}


@pytest.mark.parametrize("lock", [
    {"lockfileVersion": 1, "dependencies": {"h": {"version": "1", "requires": {"olm": "https://x/"}, "dependencies": {"olm": {"version": "1", "resolved": "https://x/"}}}}},
    {"lockfileVersion": 2, "packages": {"": {}, "node_modules/h": {"dependencies": {"olm": "https://x/"}}, "node_modules/olm": {"version": "1", "resolved": "https://x/"}}},
])
def test_npm_lock_forgets_the_foreign_address(lock):
    made = build.override_npm_lock(json.dumps(lock), [{"name": "olm", "version": "2", "integrity": "sha512-x"}])
    assert "https://x/" not in made and '"integrity": "sha512-x"' in made


BUILD = {"source_type": "git", "runtime": "native", "python_overrides": ["a==1"], "python_additions": [], "npm_overrides": [], "build_environment": {"NODE_ENV": "x"}, "image_base": "debian:12"}


def inputs(debian="12", tools=("poetry==2",), recipe=("FROM x",), **changed):
    return build.build_inputs({**BUILD, **changed}, debian, tools, recipe)


def kept(**releases):
    """Files of a host that keeps these releases: name to what each was made from, None where it does not say."""
    return {f"/opt/throat/releases/{name}/.inputs": {"content": json.dumps(made) + "\n"} for name, made in releases.items() if made is not None}


def named(made, **releases):
    return build.release_name("r1", made, kept(**releases), "/opt/throat")


@pytest.mark.parametrize(
    ("made", "changed"),
    [
        (inputs(python_overrides=["a==2"]), ["throat_gunicorn_python_overrides"]),
        (inputs(npm_overrides=[{"name": "b"}], tools=["poetry==3"]), ["the collection's build tools", "throat_gunicorn_npm_overrides"]),
        (inputs(build_environment={}), ["throat_gunicorn_build_environment"]),
        (inputs(debian="13"), ["the Debian of the host that builds"]),
        (inputs(build_environment={"NODE_ENV": "x", "https_proxy": "http://ann:secret@proxy", "GIT_CONFIG_VALUE_0": "Authorization: x", "PIP_CERT": "/x", "NPM_TOKEN": "x"}), []),
        # What only an image is made from is not known of a release without one.
        (inputs(image_base="debian:13", recipe=["FROM y"]), []),
        (inputs(runtime="container"), []),
        (inputs(source_type="image", python_overrides=["a==2"]), []),
    ],
)
def test_release_that_is_made_from_something_else_has_a_name_of_its_own(made, changed):
    other = named(made, r1=inputs())
    assert other["changed"] == changed and (other["name"] == "r1") is (not changed)
    # Of an older collection, or the first of its name.
    assert named(made, r1=None) == named(made) == {"name": "r1", "changed": []}
    if changed:
        assert other["name"].startswith("r1-")
        # Once built it is found again, also when the first is no longer kept; and so is the first, when it is asked for again.
        assert named(made, **{other["name"]: made})["name"] == named(made, **{"r1": inputs(), other["name"]: made})["name"] == other["name"]
        assert named(inputs(), **{"r1": inputs(), other["name"]: made}) == {"name": "r1", "changed": []}


def test_image_on_another_base_has_a_name_of_its_own():
    first = inputs(runtime="container")
    assert named(inputs(runtime="container", image_base="debian:13"), r1=first)["changed"] == ["throat_gunicorn_image_base"]
    assert named(inputs(), r1=first) == {"name": "r1", "changed": []}


@pytest.mark.parametrize(
    ("rule", "location"),
    [
        ("/login", "= /login"),
        ("/login/with-token/<token>", '~ "^/login/with\\-token/[^/]+$"'),
        ("/all/<int:page>", '~ "^/all/\\d+$"'),
        ("/x/<path:rest>", '~ "^/x/.+$"'),
    ],
)
def test_rule_becomes_the_narrowest_location(rule, location):
    assert routes.rule_location(rule) == location


def route(rule, *methods, gevent=False):
    return {"rule": rule, "methods": list(methods), "gevent": gevent}


def test_route_list_is_read_although_columns_run_together():
    text = (
        "Rule".ljust(80) + "Endpoint\n" + "-" * 137 + "\n"
        "/".ljust(80) + "home.index".ljust(35) + "GET".ljust(12) + "\n"
        "/submit/<ptype>".ljust(80) + "subs.create_post".ljust(35) + "POST".ljust(12) + "gevent    \n"
        "/x/<" + "y" * 80 + ">do.x" + " " * 31 + "POST, GET   \n"
        "/z".ljust(80) + "do.a_name_that_is_longer_than_its_column" + "DELETE, PATCHgevent\n"
    )
    assert routes.parse_route_list(text) == [
        route("/", "GET"),
        route("/submit/<ptype>", "POST", gevent=True),
        route(f"/x/<{'y' * 80}>", "GET", "POST"),
        route("/z", "DELETE", "PATCH", gevent=True),
    ]


def test_line_that_is_no_route_is_named():
    with pytest.raises(ValueError, match="cannot be read: /only-a-rule"):
        routes.parse_route_list("/only-a-rule")


def test_real_route_list_is_read_whole():
    text = (ROOT / "tests/data/throat-routes.txt").read_text()
    read = routes.parse_route_list(text)
    assert (len(read), sum(rule["gevent"] for rule in read)) == (sum(line.startswith("/") for line in text.splitlines()), text.count(" gevent"))


def test_only_the_marked_methods_go_to_the_async_worker():
    made = routes.async_locations([route("/a/<b>", "GET"), route("/a/<b>", "POST", gevent=True), route("/c", "GET", "POST", gevent=True)])
    assert made == [{"rule": "/c", "match": "= /c", "methods": []}, {"rule": "/a/<b>", "match": '~ "^/a/[^/]+$"', "methods": ["POST"]}]


def test_rules_that_would_be_captured_keep_their_class():
    made = routes.async_locations([route("/a/<b>", "POST", gevent=True), route("/a/new", "GET"), route("/a/<int:c>", "GET"), route("/d/<e>", "GET")])
    assert [(location["rule"], location["methods"]) for location in made] == [("/a/new", None), ("/a/<int:c>", None), ("/a/<b>", [])]


def test_override_replaces_a_rule_of_the_application():
    made = routes.async_locations([route("/a", "GET", gevent=True)], [route("/a", "GET"), route("/b", "GET", gevent=True)])
    assert [location["rule"] for location in made] == ["/b"]


def test_unknown_converter_is_named():
    with pytest.raises(ValueError, match="/a/<uuid:b>: the converter uuid is not known"):
        routes.rule_location("/a/<uuid:b>")


@pytest.mark.parametrize(
    ("modified", "current", "rewritten", "state"),
    [
        ({"/run/throat/throat-sync.started": 9, "/etc/throat/config.yaml": 5, "/etc/systemd/system/throat-sync.service": 5}, 5, [], "started"),
        ({"/run/throat/throat-sync.started": 9, "/etc/throat/config.yaml": 10, "/etc/systemd/system/throat-sync.service": 5}, 5, [], "reloaded"),
        ({"/run/throat/throat-sync.started": 9, "/etc/throat/config.yaml": 5, "/etc/systemd/system/throat-sync.service": 10}, 5, [], "restarted"),
        ({"/run/throat/throat-sync.started": 9, "/etc/systemd/system/throat-sync.socket": 10}, 5, [], "restarted"),
        ({"/run/throat/throat-sync.started": 9}, 10, [], "reloaded"),
        ({"/run/throat/throat-sync.started": 9}, 5, ["throat-sync"], "restarted"),
        ({"/run/throat/throat-sync.started": 9}, 5, ["throat-gevent"], "started"),
        ({}, 5, [], "reloaded"),
    ],
)
def test_worker_gets_what_the_files_on_disk_ask_for(modified, current, rewritten, state):
    assert workers.worker_states([{"name": "sync", "socket": "throat-sync"}], modified, ["/etc/throat/config.yaml"], current, rewritten) == {"sync": state}


@pytest.mark.parametrize(
    ("addresses", "said"),
    [
        ({"app": {"ansible_host": "10.0.0.1"}, "db": {"throat_address": "2001:db8::1", "ansible_host": "db.example.com"}}, []),
        ({"app": {"ansible_host": "10.0.0.1"}, "db": {}}, ["throat_address of db: not set"]),
        ({"app": {"ansible_host": "10.0.0.1"}, "db": {"ansible_host": "db.example.com"}}, ["throat_address of db: db.example.com is no IP address"]),
        ({"app": {"ansible_host": "10.0.0.1"}, "db": {"throat_address": "127.0.0.1"}}, ["127.0.0.1 is the host's own loopback"]),
        ({"app": {"throat_address": "10.0.0.1"}, "db": {"throat_address": "10.0.0.1"}}, ["app: 10.0.0.1 is that of db", "db: 10.0.0.1 is that of app"]),
    ],
)
def test_hosts_reach_each_other_by_address(addresses, said):
    groups = {"throat": [*addresses, "spare"], "throat_gunicorn": ["app"], "postgres": ["db"], "nginx": ["app"]}
    lines = topology.address_errors({**addresses, "spare": {}}, groups)
    assert len(lines) == len(said) and all(part in line for part, line in zip(said, lines))


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"throat_address": "192.168.0.7"}, []),
        ({"throat_address": "fd00::7"}, []),
        ({"throat_address": "198.51.100.7"}, ["throat_address of app: 198.51.100.7 is in none of throat_private_networks (10.0.0.0/8, "]),
        ({"throat_address": "198.51.100.7", "throat_private_networks": ["198.51.100.0/24", "10.0.0.0/8"]}, []),
    ],
)
def test_what_is_not_encrypted_stays_at_private_addresses(variables, said):
    hosts = {"app": variables, "web": {"throat_address": "10.0.0.2"}, "db": {"throat_address": "198.51.100.9"}}
    groups = {"throat": list(hosts), "throat_gunicorn": ["app"], "postgres": ["db"], "nginx": ["web"]}
    lines = topology.address_errors(hosts, groups)
    assert len(lines) == len(said) and all(part in line for part, line in zip(said, lines))


def test_two_could_not_agree_on_who_leads():
    hosts = {"a": {"throat_address": "10.0.0.1"}, "b": {"throat_address": "10.0.0.2"}}
    (line,) = topology.address_errors(hosts, {"throat": ["a", "b"], "redis": ["a", "b"]})
    assert line.startswith("redis: a and b are in this group, but when two lose each other, neither can know whether the other one still takes writes")


ONE = {"throat": ["a1"]} | {group: ["a1"] for group in ("postgres", "pgbouncer", "redis", "throat_gunicorn", "nginx")}


def without(*names, **more):
    """The groups of a site on one host, but for some, and with more."""
    return {group: hosts for group, hosts in ONE.items() if group not in names} | more


@pytest.mark.parametrize(
    ("groups", "variables", "said"),
    [
        (ONE, {}, []),
        ({**ONE, "debian": ["a1"], "nginx_old": ["a1"]}, {}, []),
        (without("nginx", ngnix=["a1"]), {}, ["nginx: no host of the inventory is in this group, but a1 (throat_gunicorn) cannot do without; is ngnix meant for it?"]),
        (without("nginx"), {}, ["nginx: no host of the inventory is in this group, but a1 (throat_gunicorn) cannot do without; add one"]),
        (without("nginx", nginx=[]), {}, ["cannot do without; add one"]),
        (without("redis"), {}, ["redis: no host of the inventory is in this group, but a1 (throat_gunicorn) cannot do without; add one, or set throat_gunicorn_redis_url"]),
        (without("redis"), {"throat_gunicorn_redis_url": "redis://x"}, []),
        (without("pgbouncer"), {}, ["pgbouncer: no host of the inventory is in this group, but a1 (throat_gunicorn) cannot do without; add one, or set throat_database_pooling to peewee or none"]),
        (without("pgbouncer"), {"throat_database_pooling": "none"}, []),
        (without("pgbouncer"), {"throat_gunicorn_database": {}}, []),
        (
            without("postgres"),
            {},
            [
                "postgres: no host of the inventory is in this group, but a1 (throat_gunicorn), a1 (pgbouncer) cannot do without; "
                "add one, or set throat_gunicorn_migration_database and pgbouncer_databases"
            ],
        ),
        (without("postgres"), {"throat_gunicorn_migration_database": {}, "pgbouncer_databases": []}, []),
        (without("postgres", "pgbouncer"), {"throat_gunicorn_migration_database": {}, "throat_database_pooling": "none"}, ["add one, or set throat_gunicorn_database"]),
        (without("postgres", "pgbouncer"), {"throat_gunicorn_migration_database": {}, "throat_gunicorn_database": {}}, []),
        (without("throat_gunicorn", throat_gunicron=["a1"]), {}, ["throat_gunicorn: no host of the inventory is in this group, but a1 (nginx) cannot do without; is throat_gunicron meant for it?"]),
        (without("throat_gunicorn"), {"nginx_upstreams": []}, []),
        ({"throat": ["a1"], "nginx": ["a1"]}, {}, []),
        ({"throat": ["a1"], "postgres": ["a1"], "pgbouncer": ["a1"]}, {}, []),
        ({"throat": ["a1"]}, {}, []),
        ({"throat": ["a1"], "monitoring": ["a1"], "throat_backup": ["a1"]}, {}, []),
        ({"throat": ["a1"], "postgres": [], "postgresql": ["a1"]}, {}, ["postgresql: no role is for this group, and a1 would do nothing; is postgres meant?"]),
    ],
)
def test_group_that_the_site_cannot_do_without_is_named(groups, variables, said):
    lines = topology.group_errors({"a1": variables}, {"all": ["a1"], "ungrouped": [], **groups})
    assert len(lines) == len(said) and all(line.endswith(part) for part, line in zip(said, lines))


def test_host_of_a_misspelt_group_is_named_although_others_are_in_the_right_one():
    (line,) = topology.group_errors({"a1": {}, "a2": {}}, {**ONE, "throat": ["a1", "a2"], "throat-gunicorn": ["a1", "a2"]})
    assert line == "throat-gunicorn: no role is for this group, and a2 would do nothing; is throat_gunicorn meant?"


@pytest.mark.parametrize(
    "inventory",
    [path for pattern in ("inventories/*", "molecule/*/inventory", "molecule/tiers/moved") for path in sorted(ROOT.glob(pattern))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_every_inventory_of_ours_has_its_groups(inventory):
    site = yaml.safe_load((inventory / "hosts.yml").read_text())["throat"]
    groups = {"throat": list(site["hosts"])} | {name: list(group["hosts"]) for name, group in site.get("children", {}).items()}
    assert topology.group_errors({host: variables or {} for host, variables in site["hosts"].items()}, groups) == []


def test_workers_listen_where_web_servers_of_other_hosts_reach_them():
    hosts = {"a": {"throat_address": "10.0.0.1"}, "b": {"throat_address": "10.0.0.2", "throat_gunicorn_listen_port": 6000}}
    defaults = {"throat_gunicorn_workers": GOOD, "throat_gunicorn_listen_address": "", "throat_gunicorn_listen_port": 5000, "throat_gunicorn_config_name": "production"}
    groups = {"throat": ["a", "b"], "throat_gunicorn": ["a", "b"], "nginx": ["a"]}
    found = topology.app_workers(hosts, groups, defaults)
    assert [entry["listen"] for host in found for entry in found[host]] == ["/run/throat/sync.sock", "/run/throat/socketio.sock", "10.0.0.2:6000", "10.0.0.2:6002"]
    guarded = topology.guarded_services(
        ["throat_gunicorn", "redis"], {"redis": 6379, "postgres": 5432}, {"redis": ["a", "b"], "throat_gunicorn": ["a"]}, topology.host_addresses(hosts, groups), found["b"]
    )
    assert guarded == [
        {"name": "redis", "port": 6379, "addresses": ["10.0.0.1", "10.0.0.2"]},
        {"name": "throat-sync", "port": 6000, "addresses": ["10.0.0.1"]},
        {"name": "throat-socketio", "port": 6002, "addresses": ["10.0.0.1"]},
    ]


def test_one_host_needs_no_address():
    groups = {"throat": ["only"], "throat_gunicorn": ["only"], "postgres": ["only"]}
    assert topology.address_errors({"only": {}}, groups) == []


def test_a_package_counts_only_while_it_is_installed():
    assert look.packages("ii  redis-server\nrc  nginx\nhi  curl\nii  libc6\nii  libc6\nun  apache2\n") == ["curl", "libc6", "redis-server"]


def test_services_are_read_as_the_facts_of_ansible_name_them_and_when_they_were_told():
    shown = (
        "Id=nginx.service\nSubState=running\nUnitFileState=enabled\nActiveEnterTimestampMonotonic=5000000\nStateChangeTimestampMonotonic=7500000\nNeedDaemonReload=no\n\n"
        "Id=throat-sync.service\nSubState=dead\nUnitFileState=\nActiveEnterTimestampMonotonic=0\nStateChangeTimestampMonotonic=0\nNeedDaemonReload=yes\n"
    )
    assert look.services(shown, 1000.0) == {
        "nginx.service": {"name": "nginx.service", "state": "running", "status": "enabled", "source": "systemd", "started": 1005.0, "told": 1007.5, "is_stale": False},
        "throat-sync.service": {"name": "throat-sync.service", "state": "dead", "status": "", "source": "systemd", "started": 1000.0, "told": 1000.0, "is_stale": True},
    }


@pytest.mark.parametrize(("shown", "release"), [('NAME="Debian GNU/Linux"\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\nID=debian\n', "bookworm"), ("NAME=Ubuntu\nID=ubuntu\n", "")])
def test_platform_is_read_from_the_file_that_every_distribution_has(shown, release):
    assert look.platform(shown)["distribution_release"] == release
    assert look.platform(shown)["distribution"] in ("Debian", "Ubuntu")


def test_file_differs_by_content_owner_group_or_mode():
    there = {"/etc/x": {"sha1": "f572d396fae9206628714fb2ce00f72e94f2258f", "owner": "root", "group": "root", "mode": "0644"}}
    assert not looked.differs("hello\n", there, "/etc/x")
    assert looked.differs("hello!\n", there, "/etc/x") and looked.differs("hello\n", there, "/etc/x", mode="0640") and looked.differs("hello\n", {}, "/etc/x")


def test_lines_are_looked_for_next_to_each_other():
    there = {"/etc/x": {"content": "# BEGIN\na\nb\n# END\nc"}}
    assert not looked.lacks(there, "/etc/x", "# BEGIN\na\nb\n# END") and not looked.lacks(there, "/etc/x", "c\n")
    assert looked.lacks(there, "/etc/x", "# BEGIN\na\n# END") and looked.lacks({}, "/etc/x", "c")


def served(live, *others, intent="", bad=()):
    """The files of a host that serves a release and has served others, the last one first."""
    return {
        "/opt/throat/current": {"link": f"releases/{live}"},
        **({"/opt/throat/rollback": {"content": f"{intent}\n"}} if intent else {}),
        **{f"/opt/throat/releases/{name}/.served": {"mtime": -number} for number, name in enumerate((live, *others))},
        **{f"/opt/throat/bad/{name}": {} for name in bad},
    }


@pytest.mark.parametrize(
    ("hosts", "left", "chosen"),
    [
        ([served("c", "b", "a")], "c", "b"),
        ([served("c", "b", "a", bad=["b"])], "c", "a"),
        ([served("c")], "c", ""),
        ([{}], "", ""),
        # Cut short: before a host has gone back, after one has, after all have, and after some have come to the end.
        ([served("c", "b", "a", intent="c -> b")] * 2, "c", "b"),
        ([served("b", "c", "a", intent="c -> b"), served("c", "b", "a", intent="c -> b")], "c", "b"),
        ([served("b", "c", "a", intent="c -> b")] * 2, "c", "b"),
        ([served("b", "c", "a", bad=["c"]), served("b", "c", "a", intent="c -> b")], "c", "b"),
        # Deployed to since: the host that was written on, or all but one that was away meanwhile.
        ([served("d", "b", "c", "a", intent="c -> b")], "d", "b"),
        ([served("d", "c", "b", "a"), served("c", "b", "a", intent="c -> b")], "d", "c"),
        # Written by half.
        ([served("c", "b", "a", intent="c")], "c", "b"),
    ],
)
def test_rollback_goes_to_the_release_that_served_before_and_on_where_one_was_cut_short(hosts, left, chosen):
    made = looked.rollback_choice(hosts, "/opt/throat")
    assert (made["left"], made["chosen"]) == (left, chosen)
    assert made["is_resumed"] is any(looked.unfinished_rollback(files, "/opt/throat") == ["c", "b"] and chosen == "b" for files in hosts)


def test_file_that_was_written_after_its_reader_was_told_is_newer():
    there = {"/etc/x": {"mtime": 100.5}}
    assert looked.is_newer(there, ["/etc/x", "/etc/none"], 100.4) and not looked.is_newer(there, ["/etc/x"], 100.6) and looked.is_newer(there, ["/etc/x"], None)


def test_who_may_say_who_holds_an_address_is_known_until_it_is_taken_down():
    text = "table inet throat {\n        meta l4proto 112 ip saddr 10.0.0.1 accept\n        meta l4proto 112 ip6 saddr fd00::2 accept\n        meta l4proto 112 drop\n}\n"
    files = {"/etc/throat-firewall.nft": {"content": text}}
    assert looked.peers_before(files, "/etc/throat-firewall.nft", ["10.0.0.1"]) == ["fd00::2"]
    assert looked.peers_before({}, "/etc/throat-firewall.nft", []) == []
    firewall = {"services": [], "vrrp_peers": ["10.0.0.1", "fd00::2"]}
    assert looked.outdated_roles({"firewall": firewall, "throat_backup": {}, "site": {"is_production": True}}, files) == []
    assert looked.outdated_roles({"firewall": {**firewall, "vrrp_peers": []}, "throat_backup": {}, "site": {"is_production": True}}, files) == ["firewall"]


def test_source_that_no_run_has_packed_for_a_day_leaves_the_controller(tmp_path):
    names = {"0123456789ab.tar.gz": 90000, "ba9876543210.tar.gz": 80000, "somebody-elses.tar.gz": 90000}
    for name, age in names.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    source_archive.prune(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"ba9876543210.tar.gz", "somebody-elses.tar.gz"}


VIRTUAL = {"http_port": 81, "https_port": 443, "tls_mode": "none", "virtual_addresses": ["10.0.0.9"], "virtual_own_address": "10.0.0.1"}
FACTS = {
    "interfaces": look.interfaces(
        "1: lo    inet 127.0.0.1/8 scope host lo\n2: eth0    inet 10.0.0.1/24 brd 10.0.0.255 scope global eth0\n2: eth0    inet6 fd00::1/64 scope global nodad\n"
    ),
    "listeners": look.listeners(
        'LISTEN 0 128 0.0.0.0:5432 0.0.0.0:* users:(("postgres",pid=11,fd=3))\nLISTEN 0 511 *:80 *:* users:(("apache2",pid=12,fd=4),("apache2",pid=13,fd=4))\nLISTEN 0 511 [::]:443 [::]:*\n'
    ),
    "postgres": {},
    "foreign_pools": [],
    "distribution_major_version": "13",
    "debian_postgres": "17",
    "postgres_version": "17",
    "postgres_rivals": [],
    "postgres_upgrade": "",
    "packages": ["postgresql-15", "postgresql-17"],
    "files": {"/c": {"public_key": "1"}, "/k": {"public_key": "1"}, "/other": {"public_key": "2"}, "/closed": {"public_key": ""}},
}


@pytest.mark.parametrize(
    ("roles", "facts", "said"),
    [
        ({"postgres": {"server_settings": True, "site": "throat", "port": 5432}}, {}, ["postgres_port: 5432 of db1 is taken by another postgres (process 11); stop that, or set another port"]),
        ({"postgres": {"server_settings": True, "site": "throat", "port": 5432}}, {"postgres": {"pid": 11}}, []),
        ({"postgres": {"server_settings": True, "site": "throat", "port": 5433}}, {"postgres": {"pid": 11}}, []),
        ({"nginx": {"http_port": 80, "https_port": 443, "tls_mode": "none"}}, {}, ["nginx_http_port: 80 of db1 is taken by apache2 (process 12); stop that, or set another port"]),
        ({"nginx": VIRTUAL}, {}, []),
        (
            {"nginx": {**VIRTUAL, "virtual_own_address": "198.51.100.1"}},
            {"files": {"/etc/keepalived/keepalived.conf": {}}},
            [
                "throat_address of db1: 198.51.100.1 is on none of its interfaces, and the virtual address is added where it is; set it to the one of "
                "10.0.0.1, fd00::1 that the others reach",
                "throat_virtual_addresses: db1 has a keepalived of its own (/etc/keepalived/keepalived.conf), which would not be read any more; "
                "move that file away, or take the line out and let that keepalived have the address",
            ],
        ),
        ({"nginx": {"http_port": 81, "https_port": 443, "tls_mode": "acme", "tls_certificate": "/c", "tls_key": "/none"}}, {}, []),
        ({"nginx": {"http_port": 81, "https_port": 443, "tls_mode": "files", "tls_certificate": "/c", "tls_key": "/k"}}, {}, []),
        (
            {"nginx": {"http_port": 81, "https_port": 443, "tls_mode": "files", "tls_certificate": "/c", "tls_key": "/none"}},
            {},
            ["nginx_tls_mode: files, but db1 has no /none; put it there, or choose self_signed or acme"],
        ),
        (
            {"nginx": {"http_port": 81, "https_port": 443, "tls_mode": "files", "tls_certificate": "/c", "tls_key": "/other"}},
            {},
            ["nginx_tls_certificate: /c of db1 does not belong to the key /other (nginx_tls_key); put the pair there, or name another one"],
        ),
        ({"pgbouncer": {"port": 6432, "tls_certificate": "/c", "tls_key": "/other"}}, {}, ["pgbouncer_tls_certificate: /c of db1 does not belong to the key /other"]),
        # A key with a passphrase cannot be compared, and what a package will bring is not there yet.
        ({"postgres": {"server_settings": False, "site": "throat", "tls_certificate": "/c", "tls_key": "/closed"}, "pgbouncer": {"port": 6432, "tls_certificate": "/none", "tls_key": "/none"}}, {}, []),
        ({"pgbouncer": {"port": 6432}}, {"foreign_pools": ["shop"]}, ["pgbouncer: /etc/pgbouncer/pgbouncer.ini of db1 serves shop already"]),
        ({"redis": {"port": 6379}}, {}, []),
        ({"redis": {"port": 6379, "check_password": "secret"}}, {"redis_check_hash": hashlib.sha256(b"secret").hexdigest()}, []),
        ({"haproxy": {"redis_password": "secret"}}, {"redis_check_hash": ""}, []),
        (
            {"redis": {"port": 6379, "check_password": "another"}},
            {"redis_check_hash": hashlib.sha256(b"secret").hexdigest()},
            ["throat_cluster_password: not the one that db1 knows (of Redis), and it cannot be changed; set the one of before"],
        ),
        ({"haproxy": {"redis_password": "another"}}, {"redis_check_hash": hashlib.sha256(b"secret").hexdigest()}, ["throat_cluster_password: not the one that db1 knows"]),
        # A host of the next Debian goes on with the version that has the data.
        ({"postgres": {"server_settings": False, "site": "throat"}}, {"postgres_version": "15"}, []),
        (
            {"postgres": {"server_settings": False, "site": "throat"}},
            {"postgres_version": "15", "packages": ["postgresql-17"]},
            ["postgres: the data is in PostgreSQL 15 of db1, whose programs are gone; install postgresql-15"],
        ),
        (
            {"postgres": {"server_settings": False, "site": "throat"}},
            {"postgres_version": "15", "postgres_rivals": ["15", "17"]},
            ["postgres: PostgreSQL 15 and 17 of db1 both have sites and start at boot"],
        ),
        (
            {"postgres": {"server_settings": False, "site": "throat"}},
            {"postgres_version": "15", "postgres_rivals": ["15", "17"], "postgres_upgrade": "15 17 copy"},
            ["postgres: the way of db1 from PostgreSQL 15 to 17 has not come to its end; run playbooks/postgres_upgrade.yml again"],
        ),
        ({"site": {"apps": []}, "throat_gunicorn": {"runtime": "native"}}, {"distribution_major_version": "12"}, ["throat_gunicorn: db1 runs Debian 12, but the host that builds its release runs Debian 13"]),
        ({"site": {"apps": []}, "throat_gunicorn": {"runtime": "container"}}, {"distribution_major_version": "12"}, []),
    ],
)
def test_what_was_there_before_and_stands_in_the_way_is_named(roles, facts, said):
    lines = looked.host_errors(roles, {**FACTS, **facts}, "db1", {"distribution_major_version": "13"})
    assert len(lines) == len(said) and all(line.startswith(begin) for line, begin in zip(lines, said))


def test_an_upgrade_of_postgres_goes_on_where_it_was_cut_short_but_knows_its_cluster():
    roles, builder = {"postgres": {"server_settings": False, "site": "throat"}}, {}
    unfinished = {**FACTS, "postgres_version": "15", "postgres_rivals": ["15", "17"], "postgres_upgrade": "15 17 copy"}
    assert looked.host_errors(roles, unfinished, "db1", builder, True) == []
    assert len(looked.host_errors(roles, {**unfinished, "postgres_upgrade": ""}, "db1", builder, True)) == 1


@pytest.mark.parametrize(
    ("there", "found"),
    [
        ({}, []),
        ({"17": ""}, ["17"]),
        # The next Debian has made an empty one beside ours.
        ({"15": "throat", "17": ""}, ["15"]),
        ({"9.6": "", "15": "", "17": ""}, ["17"]),
        # A second site alone, and both.
        ({"15": "throat_test", "17": ""}, ["15"]),
        # After an upgrade, and after the way back.
        ({"15": "throat manual", "17": "throat"}, ["17"]),
        ({"15": "throat", "17": "throat manual"}, ["15"]),
        # Cut short: the one that was there first.
        ({"15": "throat", "17": "throat"}, ["15", "17"]),
        ({"15": "throat manual", "17": "throat manual"}, ["17"]),
        ({"15": "throat disabled", "17": ""}, ["15"]),
    ],
)
def test_cluster_in_force_is_the_one_that_has_the_data_and_starts_at_boot(tmp_path, there, found):
    for version, words in there.items():
        directory = tmp_path / version / "main"
        directory.mkdir(parents=True)
        site, _, start = words.partition(" ")
        block = looked.block_marker(site).format(mark="BEGIN") + "\n" if site else ""
        (directory / "pg_hba.conf").write_text(f"# Debian's\n{block}local all all peer\n")
        (directory / "start.conf").write_text(f"#   manual: manual startup only\n\n{start or 'auto'}\n")
    assert clusters.in_force(str(tmp_path)) == found


# As Patroni 3.0.2 and 4.0 answer.
LEADS, FOLLOWS = {"name": "db1", "role": "leader", "state": "running"}, {"name": "db2", "role": "sync_standby", "lag": 0}
SENT = [{"application_name": "db2", "state": "streaming"}, {"application_name": "db3", "state": "catchup"}]


@pytest.mark.parametrize(
    ("cluster", "patroni", "states"),
    [
        ([LEADS, {**FOLLOWS, "state": "running"}, {"name": "db3", "role": "replica", "state": "running"}], {"replication": SENT}, ["running", "streaming", "running"]),
        ([LEADS, {**FOLLOWS, "state": "running"}], {"role": "replica"}, ["running", "running"]),
        ([LEADS, {**FOLLOWS, "state": "streaming"}], None, ["running", "streaming"]),
        ([LEADS, {**FOLLOWS, "state": "stopped"}], None, ["running", "stopped"]),
    ],
)
def test_members_that_follow_are_known_whichever_patroni_says_so(monkeypatch, cluster, patroni, states):
    pages = {"config": {"ttl": 20}, "cluster": {"members": copy.deepcopy(cluster)}, "patroni": patroni}
    opener = types.SimpleNamespace(open=lambda url, timeout: io.BytesIO(json.dumps(pages[url.rpartition("/")[2]]).encode()))
    monkeypatch.setattr(clusters.urllib.request, "build_opener", lambda *_handlers: opener)
    monkeypatch.setattr(clusters, "read", lambda _path: "restapi:\n  connect_address: \"10.0.0.1:8008\"\n")
    found = clusters.patroni("15")
    assert (found["config"], found["leader"], [member["state"] for member in found["members"]]) == ({"ttl": 20}, "db1", states)


def test_certificates_and_keys_are_looked_for_wherever_they_are():
    web = {"tls_certificate": "/c", "tls_key": "/k", "static_dir": "/s", "tls_mode": "acme", "server_name": "example.com"}
    assert looked.look_paths({"site": {}, "redis": {"port": 1}, "nginx": {**web, "tls_mode": "files"}}) == ["/c", "/k", "/s"]
    assert looked.look_paths({"nginx": web})[3:] == ["/etc/letsencrypt/live/example.com/fullchain.pem", "/etc/letsencrypt/live/example.com/privkey.pem"]


def test_server_that_shows_another_certificate_than_its_file_has_both_admitted():
    old, new = (f"-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----" for name in ("old", "new"))
    shown = f"CONNECTED\nsubject=x\n{old}\n---\n{new}\n"
    assert looked.certificates(shown) == [old, new] and not looked.shows_its_file(shown)
    assert looked.certificates(f"{new}\n{new}\n") == [new] and looked.shows_its_file(f"# text\n{new}\n\n{new}\n")
    # One that does not run shows nothing, and has to be asked again.
    assert looked.certificates(new) == [new] and not looked.shows_its_file(new)


def test_client_keeps_the_certificate_of_a_server_that_cannot_be_asked():
    one, other, renewed = (f"-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----" for name in ("one", "other", "renewed"))
    assert looked.pinned([one, other], "") == [one, other]
    assert looked.pinned([other], f"{one}\n{other}\n") == [one, other]
    assert looked.pinned([other, renewed], f"{one}\n{other}\n") == [other, renewed, one]


def test_users_and_databases_that_the_server_has_otherwise_are_found():
    users = [{"name": "a", "password": "x", "settings": {"work_mem": "8MB"}}]
    verifier = hashlib.sha256(database.scram_verifier("x", "a").encode()).hexdigest()
    there = {"roles": {"a": {"password": verifier, "is_plain": True, "settings": ["work_mem=8MB"]}}, "databases": {"d": {"owner": "a", "is_open": False}}}
    assert looked.differing_users(users, there) == [] == looked.differing_databases([{"name": "d", "owner": "a"}], there)
    assert looked.differing_users([{**users[0], "password": "y"}], there) and looked.differing_users([{**users[0], "settings": {"work_mem": "9MB"}}], there)
    assert looked.differing_users(users, {}) == users
    assert looked.differing_databases([{"name": "d", "owner": "b"}], there) and looked.differing_databases([{"name": "e", "owner": "a"}], there)


@pytest.mark.parametrize(
    ("runtime", "source_type", "source", "version", "base", "said"),
    [
        ("native", "git", "https://example.com/throat.git", "main", "debian", None),
        ("container", "git", "https://example.com/throat.git", "main", "debian:bookworm-slim", None),
        ("container", "image", "registry.example.com:5000/throat", "v1.2", "debian", None),
        ("container", "image", "registry.example.com/throat", "sha256:0123", "debian", None),
        ("container", "directory", "/src", "", "registry:5000/debian@sha256:0123", None),
        ("native", "image", "registry.example.com/throat", "v1", "debian:12", "throat_gunicorn_source_type: image, but with throat_gunicorn_runtime native"),
        ("native", "image_archive", "throat.tar", "v1", "debian:12", "throat_gunicorn_source_type: image_archive, but"),
        ("container", "image", "registry.example.com/throat", "latest", "debian:12", "throat_gunicorn_version: latest, but an image needs a tag that stays with it"),
        ("container", "image", "registry.example.com/throat", "", "debian:12", "throat_gunicorn_version: not set, but"),
        ("container", "image", "registry.example.com/throat:v1", "v1", "debian:12", "throat_gunicorn_source: registry.example.com/throat:v1 ends with a tag"),
        ("container", "git", "https://example.com/throat.git", "main", "registry:5000/debian", "throat_gunicorn_image_base: registry:5000/debian, but must name a tag"),
        ("container", "git", "https://example.com/throat.git", "main", "debian:latest", "throat_gunicorn_image_base: debian:latest, but"),
    ],
)
def test_image_is_the_same_one_each_time_and_runs_in_a_container(runtime, source_type, source, version, base, said):
    lines = build.runtime_errors(runtime, source_type, source, version, base)
    assert lines == [] if said is None else len(lines) == 1 and lines[0].startswith(said)


def test_clients_that_have_left_are_known_by_the_files_that_let_them_in():
    hba = "# BEGIN throat.stack: made by Ansible, edits are lost\nhost throat throat 127.0.0.1/32 scram-sha-256\nhostssl throat throat 10.0.0.5/32 scram-sha-256\n"
    hba += "hostssl throat throat fd00::5/128 scram-sha-256\nhost throat all all reject\n# END throat.stack: made by Ansible, edits are lost\nhost all all 10.0.0.9/32 md5\n"
    rules = '  tcp dport 5432 ip saddr 10.0.0.5 accept comment "postgres"\n  tcp dport 5432 ip6 saddr fd00::6 accept comment "postgres"\n  tcp dport { 5432 } drop\n'
    files = {"/etc/postgresql/15/main/pg_hba.conf": {"content": hba}, "/etc/throat-firewall.nft": {"content": rules}}
    path = "/etc/postgresql/15/main/pg_hba.conf"
    assert looked.admitted_before(files, path, ["127.0.0.1/32", "10.0.0.5/32"], "throat") == ["fd00::5/128"]
    # Another site's block, or no file, lets in nobody of ours.
    assert looked.admitted_before(files, path, [], "throat_test") == [] == looked.admitted_before({}, path, [], "throat")
    services = [{"name": "postgres", "port": 5432, "addresses": ["10.0.0.5"]}]
    assert looked.guarded_before(files, "/etc/throat-firewall.nft", services) == [{"name": "postgres", "port": 5432, "addresses": ["fd00::6"]}]

    roles = {"site": {"is_production": True}, "postgres": {"site": "throat", "access": [{"addresses": ["10.0.0.5/32", "fd00::5/128"]}]}}
    roles["firewall"] = {"services": services, "vrrp_peers": []}
    assert looked.outdated_roles(roles, files) == ["firewall"]
    roles["postgres"]["access"][0]["addresses"] = ["10.0.0.5/32"]
    roles["firewall"]["services"][0]["addresses"].append("fd00::6")
    assert looked.outdated_roles(roles, files) == ["postgres"]
    # A host that is to have no firewall, and has one.
    del roles["firewall"], roles["postgres"]
    assert looked.outdated_roles(roles, files) == ["firewall"] and looked.outdated_roles({"site": {"is_production": False}}, files) == []


def load(path: str):
    """A program that a role brings to its hosts, as a module."""
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_static_files_of_a_release_take_the_place_of_those_before_at_once(tmp_path):
    publish, live = load("roles/nginx/files/publish.py"), tmp_path / "static/live"

    def add(release: str, files: dict[str, str]) -> None:
        source = tmp_path / release
        for name, text in files.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_text(text)
        subprocess.run(["tar", "--create", "--file", tmp_path / "parcel", "--directory", source, "."], check=True)
        publish.add(live, release, tmp_path / "parcel")

    def served() -> dict[str, tuple[str, int]]:
        """What nginx would answer: path to content and time, which is half of the ETag."""
        found = {path: path.relative_to(live) for directory in (live, live / "gen") for path in directory.iterdir() if path.is_file()}
        return {str(name): (path.read_text(), int(path.stat().st_mtime)) for path, name in found.items()}

    now = time.time()
    add("one", {"a.txt": "hello", "same.txt": "same", "gone.txt": "x", "gen/main.1.js": "1", "a.txt.gz": "packed"})
    publish.switch(live, "one", now)
    before = served()
    add("two", {"a.txt": "Hello", "same.txt": "same", "gen/main.2.js": "2"})
    # Whatever happens until the switch, all of the first and the bundles of both are served.
    assert served() == {**before, "gen/main.2.js": served()["gen/main.2.js"]}
    publish.switch(live, "two", now)
    after = served()
    assert sorted(after) == ["a.txt", "gen/main.1.js", "gen/main.2.js", "same.txt"]
    assert after["a.txt"][1] != before["a.txt"][1] and after["same.txt"] == before["same.txt"]
    assert not (live.parent / "releases/one").exists()
    # Bundles stay for as long as pages are open, counted from when the last release that had them went, however long it has served.
    for path in (live.parent / "releases").glob("*.bundles"):
        os.utime(path, (now - publish.KEPT - 60,) * 2)
    add("three", {"gen/main.3.js": "3"})
    publish.switch(live, "three", now)
    assert sorted(path.name for path in (live / "gen").iterdir()) == ["main.2.js", "main.3.js"]


# What both sides of a move say that can be done.
MOVE = {
    "hosts": ["old1", "new1"],
    "versions": [15, 17],
    "old": ["7001", "", "300", "42", "001_tables", "002_settings"],
    "new": ["7002", "", "8", "0", "001_tables", "002_settings", "003_more"],
    "keys": ["same", "same"],
    "migrations": ["001_tables", "002_settings", "003_more"],
    "files": [2000, 0],
    "rooms": [{"stdout": "4800", "item": {"host": "new1", "path": "/var/lib/postgresql", "times": 2}}],
}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, []),
        ({"keys": ["one", "another"]}, ["throat_secret_key: not the one of old1, so that everybody would be logged out"]),
        ({"versions": [17, 15]}, ["postgres: new1 has PostgreSQL 15, and old1 17, whose dump an older one cannot read"]),
        ({"migrations": ["001_tables"]}, ["throat_gunicorn_version: the release of the new site does not know 002_settings, which the database of old1 has seen"]),
        ({"new": ["7002", "", "8", "3"]}, ["new1: the site there has posts of its own (3); if it may be replaced, say -e overwrite=true"]),
        # What an earlier try has brought is nobody's.
        ({"new": ["7002", "of a move that has not come to its end", "8", "42"]}, []),
        ({"files": [2001, 0]}, ["new1: /var/tmp and /var/lib/postgresql must each have room for 4802 MiB, but one of them has 4800"]),
        # Files that are there already take no room.
        ({"files": [9000, 8000]}, []),
        ({"old": MOVE["new"], "keys": ["a", "b"]}, ["throat_old: old1 and new1 have the same PostgreSQL", "throat_secret_key: "]),
    ],
    ids=["fits", "key", "version", "migration", "posts", "unfinished", "room", "copied", "itself"],
)
def test_what_is_in_the_way_of_a_move_is_named(changed, said):
    lines = move.move_errors({**MOVE, **changed})
    assert len(lines) == len(said) and all(line.startswith(beginning) for line, beginning in zip(lines, said)), lines


def test_posts_of_the_new_site_may_be_replaced():
    assert move.move_errors({**MOVE, "new": ["7002", "", "8", "3"]}, overwrite=True) == []


def test_old_hosts_are_known_by_what_they_have():
    web = {"ansible_facts": {"files": {"/etc/nginx/sites-enabled/zz-throat.conf": {}}, "postgres": {}}}
    app = {"ansible_facts": {"files": {"/etc/throat/config.yaml": {}, "/var/lib/throat/uploads": {}}, "postgres": {"databases": {"throat": {}}}}}
    assert move.old_site({"web1": web, "app1": app}, "throat") == {"database": "app1", "files": "app1", "apps": ["app1"], "webs": ["web1"], "errors": []}
    (line,) = move.old_site({"app1": app}, "throat")["errors"]
    assert line.startswith("throat_old: app1 has no web server of the site (/etc/nginx/sites-enabled/zz-throat.conf)")
    assert len(move.old_site({"web1": web}, "throat")["errors"]) == 3
    away = {"__move_look": {"unreachable": True, "msg": "Failed to connect: timed out\nmore"}}
    assert move.old_site({"web1": web, "app1": away}, "throat")["errors"] == [
        "throat_old: app1 cannot be reached, or not be looked at as root: Failed to connect: timed out"
    ]
