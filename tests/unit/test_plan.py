"""The plan of a site: inventories that are refused, each with all its lines, and what comes out of those that are understood."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import urllib.parse

import pytest
import yaml
from ansible_collections.throat.stack.plugins.plugin_utils import backup, database, egress, plan, shown
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = pathlib.Path(__file__).parents[2]
CASES = yaml.safe_load((ROOT / "tests/data/refusals.yml").read_text())
SITE = {
    "throat_public_url": "https://throat.example.com",
    "throat_database_password": "database-secret",
    "throat_redis_password": "redis-secret",
    "throat_secret_key": "key-secret",
    "throat_admin_password": "admin-secret",
    "throat_backup_key": "backup-secret-of-a-test",
}
GROUPS = {name: ["host1"] for name in ("throat", "postgres", "pgbouncer", "redis", "throat_gunicorn", "nginx")}


def make(vars=None, hosts=None, groups=None):
    """The plan of a site of one host, but for what is said; None takes a variable away."""
    common = {name: value for name, value in {**SITE, **(vars or {})}.items() if value is not None}
    variables = {host: {**common, **(hosts or {}).get(host, {})} for host in {"host1": {}, **(hosts or {})}}
    return plan.make(variables, {**GROUPS, **(groups or {})})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_inventory_is_refused_with_all_its_lines(case):
    made = make(case.get("vars"), case.get("hosts"), case.get("groups"))
    assert made["refusals"] == case["says"]
    assert made["hosts"] == {}


def test_one_deploy_at_a_time_is_let_go_on_by_a_host_that_no_limit_changes():
    groups = {"throat": ["app1", "app2", "db1"], "throat_gunicorn": ["app1", "app2"], "nginx": ["app1"], "redis": ["db1"], "postgres": ["db1"], "pgbouncer": ["app1", "app2"]}
    made = plan.make({host: {**SITE, "ansible_host": f"10.0.0.{number}"} for number, host in enumerate(groups["throat"], 1)}, groups)
    assert {facts["site"]["lock_host"] for facts in made["hosts"].values()} == {"db1"}, made["refusals"]


def test_refusals_are_many_and_have_names_of_their_own():
    assert len({case["name"] for case in CASES}) == len(CASES) >= 60


def options():
    """(owner, name, option) of every variable."""
    return [(owner, name, option) for owner in ("site", *plan.ROLES) for name, option in plan.options(owner).items()]


WORDS = [(name, word, meant) for _, name, option in options() if option["type"] == "bool" for word, meant in (("false", False), ("no", False), ("True", True), ("1", True))]
NUMBERS = [name for _, name, option in options() if option["type"] == "int"]


@pytest.mark.parametrize(("name", "word", "meant"), WORDS, ids=[f"{name}={word}" for name, word, _ in WORDS])
def test_yes_and_no_mean_the_same_as_text(name, word, meant):
    """-e x=false and x=false in INI deliver text, x: false in YAML does not."""
    given = [plan.read({"host1": {**SITE, name: value}}, GROUPS) for value in (word, meant)]
    assert given[0][1] == given[1][1] == []
    assert given[0][0].given["host1"][name] is given[1][0].given["host1"][name] is meant


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_mean_the_same_as_text(name):
    for value in (7, "7", " 7 "):
        site, lines = plan.read({"host1": {**SITE, name: value}}, GROUPS)
        assert lines == [] and site.given["host1"][name] == 7 and type(site.given["host1"][name]) is int


@pytest.mark.parametrize(
    ("name", "value", "role", "meant"),
    [
        ("throat_gunicorn_default_subs", "welcome", "throat_gunicorn", ["welcome"]),
        ("throat_gunicorn_default_subs", "welcome, news", "throat_gunicorn", ["welcome", "news"]),
        ("throat_gunicorn_languages", '["en", "es"]', "throat_gunicorn", ["en", "es"]),
        ("throat_proxies", [{"name": "CDN", "addresses": "198.51.100.0/24"}], "nginx", [{"name": "CDN", "addresses": ["198.51.100.0/24"]}]),
        ("throat_proxies", '[{"name": "CDN", "addresses": ["198.51.100.0/24"]}]', "nginx", [{"name": "CDN", "addresses": ["198.51.100.0/24"]}]),
        ("postgres_settings", "{work_mem: 8MB}", "postgres", {"work_mem": "8MB"}),
        ("redis_persistence", "false", "redis", False),
        ("throat_gunicorn_workers", '[{"name": "s", "class": "socketio", "connections": "7"}]', "throat_gunicorn",
         [{"name": "s", "class": "socketio", "connections": 7, "threads": 1, "environment": {}}]),
    ],
)
def test_what_is_understood_is_what_the_role_is_told(name, value, role, meant):
    made = make({name: value})
    assert made["refusals"] == []
    assert made["hosts"]["host1"][role][{"throat_proxies": "proxies"}.get(name, name.removeprefix(f"{role}_"))] == meant


def test_password_of_any_kind_stands_in_the_address_of_redis():
    made = make({"throat_redis_password": "Zm9v/aGVs+bG8=:@#%"})["hosts"]["host1"]
    assert re.fullmatch("redis://throat:[0-9a-f]{64}@127.0.0.1:6379/0", made["throat_gunicorn"]["redis_url"])
    assert make()["hosts"]["host1"]["throat_gunicorn"]["redis_url"] == "redis://throat:redis-secret@127.0.0.1:6379/0"
    assert made["redis"]["password"] == "Zm9v/aGVs+bG8=:@#%"


def test_what_an_earlier_plan_of_the_run_has_given_a_host_is_no_variable_of_the_inventory():
    first = make()
    given_by_it = {name: part for name, part in first["hosts"]["host1"].items() if name not in plan.options("site")}
    assert "throat_gunicorn" in given_by_it and make(given_by_it) == first


def test_password_of_digits_is_text():
    assert make({"throat_database_password": 12345678})["hosts"]["host1"]["postgres"]["users"][0]["password"] == "12345678"


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(blacklist_categories=["Cc", "Cs"]), min_size=1, max_size=60), st.sampled_from(sorted(plan.SECRETS)))
def test_any_text_is_a_secret_or_is_refused(text, name):
    made = make({name: text})
    if made["refusals"]:
        (line,) = made["refusals"]
        # A short one may be a word of the refusal.
        assert line.startswith(f"{name}: ") and (len(text) < 12 or text not in line)
        return
    told = made["hosts"]["host1"]
    assert {
        "throat_database_password": told["postgres"]["users"][0]["password"],
        "throat_redis_password": told["redis"]["password"],
        "throat_secret_key": told["throat_gunicorn"]["secret_key"],
        "throat_admin_password": told["throat_gunicorn"]["admin"]["password"],
        "throat_backup_key": told["throat_backup"]["key"],
    }[name] == text
    address = urllib.parse.urlsplit(told["throat_gunicorn"]["redis_url"])
    assert address.hostname == "127.0.0.1" and address.port == 6379 and address.password == database.redis_login(told["redis"]["password"])


def test_host_names_have_no_case():
    made = make({"throat_public_url": "https://LocalHost:9443/"})["hosts"]["host1"]
    assert (made["nginx"]["server_name"], made["nginx"]["https_port"], made["throat_gunicorn"]["server_name"]) == ("localhost", 9443, "localhost:9443")
    assert made["site"]["public_url"] == "https://localhost:9443"


def test_one_host_has_all_and_speaks_to_itself_over_sockets():
    made = make()["hosts"]["host1"]
    assert set(made) == {"site", *plan.ROLES} - {"firewall", "throat_metrics", "monitoring", "etcd", "haproxy"}
    assert made["throat_gunicorn"]["database"] == {"host": "/run/postgresql", "port": 6432, "name": "throat", "user": "throat"}
    assert made["postgres"]["listen_addresses"] == made["redis"]["listen_addresses"] == ["127.0.0.1"]
    assert made["throat_gunicorn"]["database_password"] == ""


def test_tiers_on_hosts_of_their_own_listen_where_their_clients_come_from():
    hosts = {"host1": {"throat_address": "10.0.0.1"}, "host2": {"throat_address": "10.0.0.2"}}
    made = make(hosts=hosts, groups={"throat": ["host1", "host2"], "redis": ["host2"], "postgres": ["host2"]})["hosts"]
    assert made["host2"]["postgres"]["listen_addresses"] == ["127.0.0.1", "10.0.0.2"]
    assert made["host1"]["throat_gunicorn"]["redis_url"].endswith("@10.0.0.2:6379/0")
    assert [service["addresses"] for service in made["host2"]["firewall"]["services"]] == [["10.0.0.1"], ["10.0.0.1"]]
    assert made["host1"]["pgbouncer"]["databases"] == [
        {"name": "throat", "host": "10.0.0.2", "port": 5432, "user": "throat", "password": "database-secret"}
    ]


def test_web_servers_find_the_challenges_of_each_other():
    hosts = {"host1": {"throat_address": "10.0.0.1", "nginx_tls_mode": "acme"}, "host2": {"throat_address": "fd00::2", "nginx_http_port": 8080}, "host3": {"throat_address": "10.0.0.3"}}
    given, groups = {"nginx_acme_email": "me@example.com", "throat_shared_files": False}, {"throat": list(hosts), "nginx": list(hosts)}
    made = make(given, hosts, groups)
    assert made["refusals"] == []
    peers = {host: roles["nginx"]["acme_peers"] for host, roles in made["hosts"].items()}
    assert peers == {"host1": ["[fd00::2]:8080", "10.0.0.3:80"], "host2": ["10.0.0.1:80", "10.0.0.3:80"], "host3": ["10.0.0.1:80", "[fd00::2]:8080"]}
    # One alone asks nobody, and neither do those who have theirs from elsewhere.
    assert make({**given, "nginx_tls_mode": "acme"})["hosts"]["host1"]["nginx"]["acme_peers"] == []
    others = make(given, {host: {**variables, "nginx_tls_mode": "self_signed"} for host, variables in hosts.items()}, groups)["hosts"]
    assert all(roles["nginx"]["acme_peers"] == [] for roles in others.values())


def test_web_servers_have_an_address_together_and_let_nobody_else_say_who_holds_it():
    hosts = {"host1": {"throat_address": "fd00:0::1"}, "host2": {"throat_address": "FD00::2"}, "host3": {"throat_address": "10.0.0.3"}}
    given = {"throat_virtual_addresses": ["10.0.0.9", "fd00::9/64"], "throat_shared_files": False, "throat_firewall": "services"}
    made = make(given, hosts, {"throat": list(hosts), "nginx": ["host1", "host2"]})
    assert made["refusals"] == []
    webs = {host: {name: roles["nginx"][f"virtual_{name}"] for name in ("addresses", "own_address", "peers", "priority")} for host, roles in made["hosts"].items() if host != "host3"}
    assert webs == {
        "host1": {"addresses": ["10.0.0.9", "fd00::9/64"], "own_address": "fd00::1", "peers": ["fd00::2"], "priority": 200},
        "host2": {"addresses": ["10.0.0.9", "fd00::9/64"], "own_address": "fd00::2", "peers": ["fd00::1"], "priority": 199},
    }
    assert {host: roles["firewall"]["vrrp_peers"] for host, roles in made["hosts"].items()} == {"host1": ["fd00::2"], "host2": ["fd00::1"], "host3": []}
    assert "Virtual addresses: 10.0.0.9, fd00::9/64, held by one of host1, host2" in shown.plan_text(made)
    assert make()["hosts"]["host1"]["nginx"]["virtual_addresses"] == []


CLUSTER = {f"host{number}": {"throat_address": f"10.0.0.{number}", "throat_backup": False, "throat_cluster_password": "cluster-secret"} for number in (1, 2, 3, 4)}


CLUSTER_GROUPS = {"throat": list(CLUSTER), "postgres": ["host2", "host3", "host4"]}


def cluster(groups=None):
    return make(hosts=CLUSTER, groups={**CLUSTER_GROUPS, **(groups or {})})


def test_whoever_has_clients_of_a_cluster_asks_itself_who_leads():
    made = cluster()
    assert made["refusals"] == []
    hosts = made["hosts"]
    assert [host for host, roles in hosts.items() if "etcd" in roles] == ["host2", "host3", "host4"]
    assert [host for host, roles in hosts.items() if "haproxy" in roles] == ["host1"]
    assert hosts["host1"]["pgbouncer"]["databases"] == [{"name": "throat", "host": "127.0.0.1", "port": 6431, "user": "throat", "password": "database-secret"}]
    assert hosts["host1"]["throat_gunicorn"]["migration_database"]["host"] == "127.0.0.1"
    assert [server["address"] for server in hosts["host1"]["haproxy"]["servers"]] == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
    ports = {service["name"]: set(service["addresses"]) for service in hosts["host2"]["firewall"]["services"]}
    members = {"10.0.0.3", "10.0.0.4"}
    assert ports == {"postgres": {"10.0.0.1"} | members, "etcd": members, "etcd-peers": members, "patroni": {"10.0.0.1"} | members}
    assert re.search(r"^whoever leads .*\n +members of the cluster +3 for each +9$", made["budget"], re.MULTILINE)
    # What a member proves itself with is nobody's on the other hosts.
    assert "cluster-secret" not in json.dumps(hosts["host1"])


def test_application_that_leans_on_the_pooler_of_a_member_is_named():
    assert cluster()["notes"] == []
    (line,) = cluster({"pgbouncer": ["host2"]})["notes"]
    assert line.startswith("pgbouncer: host1 asks the PgBouncer of host2") and line.endswith("put host1 into the group pgbouncer")


def test_plan_of_a_cluster_shows_what_listens_for_it():
    admitted = {"postgres_access": [{"database": "throat", "user": "throat", "addresses": ["10.0.0.2/32", "10.0.9.0/24"]}]}
    hosts = {host: {**variables, "throat_metrics": True} for host, variables in CLUSTER.items()}
    made = make(hosts=hosts | {"host4": hosts["host4"] | admitted}, groups=CLUSTER_GROUPS)
    lines = [" ".join(line.split()) for line in shown.plan_text(made).splitlines()]
    assert "host2 postgres 127.0.0.1:5432, 10.0.0.2:5432 this host, host1, host3, host4" in lines
    assert "host4 postgres 127.0.0.1:5432, 10.0.0.4:5432 this host, host2, 10.0.9.0/24" in lines
    assert "haproxy 127.0.0.1:6431 this host" in lines
    assert "patroni 10.0.0.2:8008 this host, host3, host4, host1" in lines
    assert "etcd 10.0.0.2:2379, 10.0.0.2:2380 this host, host3, host4" in lines
    assert "exporter postgres 127.0.0.1:9187 this host" in lines


def test_pooler_alone_asks_who_leads_the_database_and_no_redis():
    members = ["host2", "host3", "host4"]
    groups = {"throat": [*CLUSTER, "host5"], "postgres": members, "redis": members, "pgbouncer": ["host5"]}
    made = make(hosts={**CLUSTER, "host5": {**CLUSTER["host1"], "throat_address": "10.0.0.5"}}, groups=groups)
    assert made["refusals"] == []
    asked = {host: {kind: len(roles["haproxy"][kind]) for kind in ("servers", "redis_servers")} for host, roles in made["hosts"].items() if "haproxy" in roles}
    assert asked == {"host1": {"servers": 3, "redis_servers": 3}, "host5": {"servers": 3, "redis_servers": 0}}
    doors = [line for line in shown.plan_text(made).splitlines() if " sentinel " in line]
    assert len(doors) == 3 and not any("host5" in line for line in doors)


def test_workers_ask_their_own_host_who_leads_redis():
    groups = {"throat": list(CLUSTER), "postgres": ["host2"], "redis": ["host2", "host3", "host4"]}
    made = make(hosts=CLUSTER, groups=groups)
    assert made["refusals"] == []
    lines = [" ".join(line.split()) for line in shown.plan_text(made).splitlines()]
    assert "haproxy 127.0.0.1:6378 this host" in lines
    assert "sentinel 127.0.0.1:26379, 10.0.0.3:26379 this host, host2, host4, host1" in lines
    hosts = made["hosts"]
    assert [host for host, roles in hosts.items() if "haproxy" in roles] == ["host1"] and not any("etcd" in roles for roles in hosts.values())
    assert hosts["host1"]["throat_gunicorn"]["redis_url"] == "redis://throat:redis-secret@127.0.0.1:6378/0"
    assert hosts["host1"]["throat_gunicorn"]["local_services"] == ["pgbouncer.service", "haproxy.service"]
    # PostgreSQL is as without it.
    assert hosts["host1"]["haproxy"]["servers"] == [] and hosts["host1"]["pgbouncer"]["leader_socket"] == "" and not hosts["host2"]["postgres"]["members"]
    assert [server["address"] for server in hosts["host1"]["haproxy"]["redis_servers"]] == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
    ports = {service["name"]: set(service["addresses"]) for service in hosts["host2"]["firewall"]["services"]}
    assert ports == {"postgres": {"10.0.0.1"}, **dict.fromkeys(("redis", "sentinel"), {"10.0.0.1", "10.0.0.3", "10.0.0.4"})}
    assert {hosts[host]["redis"]["member"]: hosts[host]["redis"]["listen_addresses"][1] for host in groups["redis"]} == {
        "host2": "10.0.0.2", "host3": "10.0.0.3", "host4": "10.0.0.4"
    }
    # HAProxy proves itself by what tells nothing else, and members by something of their own.
    told = hosts["host2"]["redis"]
    assert hosts["host1"]["haproxy"]["redis_password"] == told["check_password"] != told["member_password"]
    assert told["member_password"] not in json.dumps(hosts["host1"]) and "cluster-secret" not in json.dumps(hosts)


def test_workers_beside_redis_of_several_hosts_ask_haproxy_as_well():
    groups = {name: ["host1", "host2", "host3"] for name in ("throat", "redis", "throat_gunicorn", "pgbouncer")}
    hosts = make({"throat_shared_files": False}, hosts={host: CLUSTER[host] for host in groups["throat"]}, groups=groups)["hosts"]
    assert {hosts[host]["throat_gunicorn"]["redis_url"] for host in groups["throat"]} == {"redis://throat:redis-secret@127.0.0.1:6378/0"}
    assert all("redis-server.service" not in hosts[host]["throat_gunicorn"]["local_services"] for host in groups["throat"])


def test_members_of_a_cluster_share_their_backups():
    told = [{"type": "local", "path": "/mnt/backup"}]
    shared = {host: {**variables, "throat_backup": True, "throat_backup_repositories": told} for host, variables in CLUSTER.items()}
    hosts = make(hosts=shared, groups=CLUSTER_GROUPS)["hosts"]
    assert [hosts[host]["throat_backup"]["members"] for host in CLUSTER] == [[], *[["host2", "host3", "host4"]] * 3]
    assert len({hosts[host]["postgres"]["archive_command"] for host in CLUSTER_GROUPS["postgres"]} - {""}) == 1
    for change in ({"throat_backup": False}, {"throat_backup_repositories": [{"type": "local", "path": "/mnt/other"}]}):
        (line,) = make(hosts={**shared, "host3": {**shared["host3"], **change}}, groups=CLUSTER_GROUPS)["refusals"]
        assert line.startswith("throat_backup_repositories: not the same for all of host2, host3, host4")


def test_etcd_may_have_hosts_of_its_own():
    groups = {"postgres": ["host1", "host2", "host3"], "etcd": ["host2", "host3", "host4"]}
    hosts = cluster(groups)["hosts"]
    assert [host for host, roles in hosts.items() if "etcd" in roles] == ["host2", "host3", "host4"]
    assert {service["name"] for service in hosts["host4"]["firewall"]["services"]} == {"etcd", "etcd-peers"}
    assert [voter["address"] for voter in hosts["host1"]["postgres"]["etcd"]] == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]


def test_each_host_backs_up_what_it_has_and_what_hosts_share_is_backed_up_once():
    hosts = {f"host{number}": {"throat_address": f"10.0.0.{number}"} for number in (1, 2, 3)}
    groups = {"throat": list(hosts), "postgres": ["host1"], "redis": ["host1"], "pgbouncer": ["host2", "host3"], "throat_gunicorn": ["host2", "host3"], "nginx": ["host2"]}
    made = make({"throat_backup_repositories": [{"type": "local"}, {"path": "/mnt/backup"}]}, hosts, groups)["hosts"]
    role = {host: roles["throat_backup"] for host, roles in made.items() if "throat_backup" in roles}
    told = {host: (arguments["database"], arguments["files"], arguments["mount"]) for host, arguments in role.items()}
    assert told == {
        "host1": ("throat", [], ""),
        "host2": ("", ["/var/lib/throat/uploads", "/var/lib/throat/thumbs", "/etc/throat"], "/var/lib/throat"),
    }
    assert made["host1"]["site"]["backup_warning"] == "" and made["host1"]["postgres"]["archive_command"] == "timeout 120 pgbackrest --stanza=throat archive-push %p"
    assert "host1, host2 are on its own disk" in make({}, hosts, groups)["hosts"]["host1"]["site"]["backup_warning"]


def test_a_second_site_leaves_the_archive_to_production_and_a_site_may_have_none():
    mine = {"throat_gunicorn_config_name": "test", "throat_database_pooling": "none", "postgres_max_connections": 1100}
    second = make(mine, groups={"pgbouncer": []})["hosts"]["host1"]
    assert second["postgres"]["archive_command"] == "" and not second["throat_backup"]["cluster"]
    assert [found["place"] for found in backup.repositories(second["throat_backup"])] == ["/var/lib/throat_test-backup/repository"]
    without = make({"throat_backup": False, "throat_backup_key": None})["hosts"]["host1"]
    assert "throat_backup" not in without and without["postgres"]["archive_command"] == "" and "no backups" in without["site"]["backup_warning"]


@pytest.mark.parametrize(
    ("name", "value", "role"), [("postgres_port", "5433", "postgres"), ("nginx_static_dir", "/srv/static", "nginx"), ("throat_gunicorn_server_name", "x", "throat_gunicorn")]
)
def test_what_somebody_has_set_wins(name, value, role):
    made = make({name: value})["hosts"]["host1"]
    assert str(made[role][name.removeprefix(f"{role}_")]) == value


def test_a_change_of_port_reaches_everybody_who_asks_there():
    made = make({"postgres_port": 5433, "redis_port": 6400})["hosts"]["host1"]
    assert made["pgbouncer"]["databases"][0]["port"] == made["throat_gunicorn"]["migration_database"]["port"] == 5433
    assert ":6400/" in made["throat_gunicorn"]["redis_url"]


def test_plan_is_plain_data():
    made = make()
    assert json.loads(json.dumps(made)) == made


def test_plan_is_shown_without_a_secret():
    made = make({"throat_proxies": [{"name": "CDN", "addresses": "198.51.100.0/24"}]})
    text, data = shown.plan_text(made), json.dumps(shown.plan_data(made))
    for secret in ("database-secret", "redis-secret", "key-secret", "admin-secret", "backup-secret-of-a-test"):
        assert secret in json.dumps(made) and secret not in text and secret not in data
    for part in (
        "Site throat at https://throat.example.com", "visitor -> CDN (198.51.100.0/24) -> nginx -> worker, SITE_TRUSTED_PROXY_COUNT 2", "worker gevent (gevent, 1 x 40)",
        "/run/throat/gevent.sock", "127.0.0.1:6432", "postgres_max_connections", f"git {plan.defaults()['throat_gunicorn_source']}",
    ):
        assert part in text


def test_playbook_shows_the_plan_and_writes_it_for_machines(tmp_path):
    """Without a host, and without making the secrets that a first run makes."""
    inventory, file = tmp_path / "inventory", tmp_path / "plan.json"
    shutil.copytree(ROOT / "molecule/tiers/inventory", inventory, ignore=shutil.ignore_patterns(".secrets"), symlinks=False)
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "PWD": str(tmp_path)}
    command = ["ansible-playbook", "-i", str(inventory), str(ROOT / "playbooks/plan.yml"), "-e", "plan_file=plan.json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "Site throat at https://localhost:8449" in done.stdout and "10.213.0.12:5432" in done.stdout
    data = json.loads(file.read_text())
    assert data["hosts"]["throat-stack-app"]["redis"]["password"] == "set"
    assert data["hosts"]["throat-stack-db"]["postgres"]["users"][0]["password"] == "set"
    assert not (inventory / ".secrets").exists()


def test_exception_for_an_address_within_a_network_opens_that_network_alone():
    made = plan.make({"host1": {**SITE, "throat_gunicorn_egress": [{"name": "mail", "addresses": ["10.0.9.5/24"], "port": 25}]}}, GROUPS)
    assert made["refusals"] == []
    assert 'ip daddr 10.0.9.5/24 tcp dport { 25 } accept comment "mail"' in egress.egress_rules(made["hosts"]["host1"]["throat_gunicorn"])


def test_workers_reach_their_tiers_wherever_those_are_and_what_the_operator_says():
    groups = {"throat": ["app", "db"], "throat_gunicorn": ["app"], "pgbouncer": ["db"], "nginx": ["app", "db"], "redis": ["db"], "postgres": ["db"]}
    mail = {"throat_gunicorn_egress": [{"name": "mail", "addresses": ["10.0.9.0/24", "fd00::9"], "port": 25}, {"name": "store", "addresses": ["10.0.8.1"]}]}
    made = plan.make({host: {**SITE, **mail, "ansible_host": f"10.0.0.{number}"} for number, host in enumerate(groups["throat"], 1)}, groups)
    assert made["refusals"] == []
    rules = egress.egress_rules(made["hosts"]["app"]["throat_gunicorn"])
    assert rules == [
        'ip daddr 10.0.0.2 tcp dport { 6432 } accept comment "database"',
        'ip daddr 10.0.0.2 tcp dport { 5432 } accept comment "migrations"',
        'ip daddr 10.0.0.2 tcp dport { 6379 } accept comment "redis"',
        'fib daddr type local tcp dport { 80, 443 } accept comment "web"',
        'ip daddr 10.0.0.2 tcp dport { 80, 443 } accept comment "web"',
        'ip daddr 10.0.0.1 tcp dport { 5011 } accept comment "workers"',
        'ip daddr 10.0.0.1 tcp dport { 5012 } accept comment "workers"',
        'ip daddr 10.0.9.0/24 tcp dport { 25 } accept comment "mail"',
        'ip6 daddr fd00::9 tcp dport { 25 } accept comment "mail"',
        'ip daddr 10.0.8.1 meta l4proto tcp accept comment "store"',
    ]
    written = "".join(f"        {rule}\n" for rule in [*rules, 'ip daddr 10.0.0.7 tcp dport { 6379 } accept comment "redis"'])
    assert egress.egress_before(written, rules) == ['ip daddr 10.0.0.7 tcp dport { 6379 } accept comment "redis"']
    # By the sockets of its own host a site needs none, but for Redis and the web.
    alone = egress.egress_rules(make()["hosts"]["host1"]["throat_gunicorn"])
    assert alone == ['fib daddr type local tcp dport { 6379 } accept comment "redis"', 'fib daddr type local tcp dport { 80, 443 } accept comment "web"']


@pytest.mark.parametrize("redis", ["{hosts: {db1: }}", "{hosts: [db1]}"])
def test_half_an_inventory_is_none(redis, tmp_path):
    """Ansible by itself goes on with what it has read until then."""
    (tmp_path / "hosts.yml").write_text(f"throat: {{children: {{postgres: {{hosts: {{db1: }}}}, redis: {redis}}}}}\n")
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    done = subprocess.run(["ansible-inventory", "-i", tmp_path, "--list"], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == ("[" not in redis), done.stderr
