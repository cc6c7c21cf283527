"""The status of a site: from what a host has really answered, with one thing broken at a time, exactly its line turns."""

import copy
import json
import pathlib
import re

import pytest
import yaml
from ansible_collections.throat.stack.plugins.modules import probe
from ansible_collections.throat.stack.plugins.plugin_utils import plan, status, status_page

ROOT = pathlib.Path(__file__).parents[2]
# What the host of the scenario "default" has answered.
RECORDED = json.loads((ROOT / "tests/data/probe.json").read_text())
NOW = RECORDED["time"]
SECRETS = {name: f"{name.replace('_', '-')}-which-nobody-sees" for name in plan.SECRETS}
SITE = {"throat_public_url": "https://throat.example.com", **SECRETS, "throat_shared_files": False}
WORKERS = [{"name": "sync", "class": "sync"}, {"name": "gevent", "class": "gevent"}, {"name": "socketio", "class": "socketio"}]
TIERS = ("postgres", "pgbouncer", "redis", "throat_gunicorn", "nginx")
ONE = {name: ["host1"] for name in ("throat", *TIERS)}
EIGHT = {"nginx": ["web1", "web2"], "throat_gunicorn": ["app1", "app2", "app3"], "pgbouncer": ["pooler"], "postgres": ["db"], "redis": ["cache"]}
EIGHT["throat"] = [host for name in EIGHT for host in EIGHT[name]]


def planned(groups, **variables):
    hosts = {host: {**SITE, "throat_gunicorn_workers": WORKERS, "ansible_host": f"10.0.0.{number}", **variables} for number, host in enumerate(groups["throat"], 1)}
    made = plan.make(hosts, groups, needs_source=False)
    assert made["refusals"] == []
    return made


def answers(made):
    """What Ansible registers on each host when all is well: of the recorded answer what such a host is asked."""
    return {host: {"changed": False, "probe": answer(roles, host)} for host, roles in made["hosts"].items()}


def answer(roles, host):
    asked, known = status.status_questions(roles, host), copy.deepcopy(RECORDED)
    known["units"] = {unit: dict(known["units"].get(unit, known["units"]["nginx.service"])) for unit in asked["units"] if "_next" not in unit}
    known["workers"] = {worker["name"]: known["workers"][worker["name"]] for worker in asked["workers"]}
    known["certificates"] = {path: known["certificates"]["/etc/ssl/certs/throat.pem"] for path in asked["certificates"]}
    for part, option in (("web", "web"), ("requests", "web"), ("postgres", "postgres"), ("pgbouncer", "pgbouncer"), ("redis", "redis")):
        if option not in asked:
            del known[part]
    known["nft_tables"] = ["inet throat", "inet throat_egress"]
    if not asked["workers"]:
        known |= {"release": None, "migrations": []}
    if known.get("pgbouncer"):
        known["pgbouncer"]["databases"]["throat"]["limit"] = roles["pgbouncer"]["max_db_connections"]
    if known.get("postgres"):
        known["postgres"]["limit"] = roles["postgres"]["max_connections"]
    return known


def report(made, results):
    return status.status_report(made, results, NOW, "inventories/mysite")


def wrong(told):
    return [finding for finding in told["findings"] if finding["level"] != "ok"]


def put(*path):
    """A change of a host's answer: the last of the path is put where the others lead."""

    def change(known):
        *way, name, value = path
        for step in way:
            known = known[step]
        known[name] = value

    return change


def stopped(unit, active="inactive", result="success"):
    return put("units", unit, {"is_there": True, "active": active, "sub": "dead", "enabled": "enabled", "result": result, "since": NOW - 120})


def worker_stopped(known):
    stopped("throat-sync.service")(known)
    del known["workers"]["sync"]


DOWN = {"answers": False, "said": "no response", "unit": "postgresql@17-main"}
DISK = {"answers": True, "size": 100 * 10**9, "used": 90 * 10**9, "free": 10 * 10**9, "inodes": 1000, "free_inodes": 900}
# (name, change, level, subject, part of what is seen, part of the command)
BROKEN = [
    ("worker stopped", worker_stopped, "broken", "worker sync", "throat-sync.service is inactive for 2 min", "systemctl start throat-sync.service"),
    ("worker gives up", stopped("throat-gevent.service", "failed", "exit-code"), "broken", "worker gevent", "failed (exit-code)", "journalctl -u throat-gevent.service"),
    ("worker answers 500", put("workers", "gevent", {"status": 500, "seconds": 0.1, "release": ""}), "broken", "worker gevent", "runs, and answers 500", "journalctl -u throat-gevent"),
    ("worker hangs", put("workers", "gevent", {"status": 0, "seconds": 5, "release": ""}), "broken", "worker gevent", "does not answer within 5 s", "systemctl restart throat-gevent"),
    ("worker is slow", put("workers", "gevent", {"status": 200, "seconds": 3.0, "release": "d4f19451d854"}), "warning", "worker gevent", "after 3.0 s", "budget.yml"),
    ("old release", put("workers", "gevent", {"status": 200, "seconds": 0.1, "release": "0" * 12}), "warning", "worker gevent", "serves release 000000000000", "site.yml"),
    ("no socket", stopped("throat-sync.socket"), "broken", "worker sync", "throat-sync.socket is inactive", "systemctl start throat-sync.socket"),
    ("follower stopped", stopped("throat-follow-redis.service"), "broken", "follower of Redis", "inactive", "systemctl start"),
    ("nothing live", put("release", None), "broken", "release", "none is live", "site.yml"),
    ("migration lacks", put("migrations", ["001_tables", "002_settings", "003_more"]), "broken", "migrations", "first 003_more", "site.yml"),
    ("nginx stopped", stopped("nginx.service"), "broken", "nginx", "inactive", "systemctl start nginx"),
    ("not at boot", put("units", "nginx.service", "enabled", "disabled"), "warning", "nginx", "at boot", "systemctl enable nginx"),
    ("nginx hangs", lambda known: known["web"].update(health={"status": 0, "seconds": 8, "release": ""}, certificate={}), "broken", "nginx", "not answer within 8 s", "nginx -t"),
    ("way cut", put("web", "health", {"status": 503, "seconds": 2, "release": ""}), "broken", "way to the workers", "503", "throat.error.log"),
    ("closed", put("web", "is_closed", True), "warning", "maintenance", "closed", "-e maintenance=off"),
    ("no certificate", put("web", "certificate", {}), "broken", "certificate", "none is shown", "nginx -t"),
    ("expired", put("web", "certificate", {"until": NOW - 86400, "sha256": RECORDED["web"]["certificate"]["sha256"]}), "broken", "certificate", "run out 1 d ago", "site.yml"),
    ("expires", put("web", "certificate", {"until": NOW + 864000, "sha256": RECORDED["web"]["certificate"]["sha256"]}), "warning", "certificate", "in 10 d", "site.yml"),
    ("not reloaded", put("web", "certificate", "sha256", "0"), "warning", "certificate", "another one than /etc/ssl/certs/throat.pem", "systemctl reload nginx"),
    ("errors", put("requests", {"requests": 900, "errors": 33, "failed_logins": 0, "first": NOW - 3599}), "warning", "errors", "33 of 900", "access.log"),
    ("log-ins", put("requests", {"requests": 900, "errors": 0, "failed_logins": 300, "first": NOW - 3599}), "warning", "log-ins", "300 failed", "uniq -c"),
    ("PostgreSQL down", put("postgres", DOWN), "broken", "PostgreSQL", "no response", "systemctl restart postgresql@17-main"),
    ("PostgreSQL hangs", put("postgres", {"answers": True, "said": "", "unit": "postgresql@17-main", "migrations": None}), "broken", "PostgreSQL", "answers no query", "journalctl"),
    ("PostgreSQL full", put("postgres", "connections", 97), "broken", "connections", "97 of 97", "pg_stat_activity"),
    ("nearly full", put("postgres", "connections", 90), "warning", "connections", "90 of 97", "pg_stat_activity"),
    ("not restarted", put("postgres", "limit", 200), "warning", "connections", "max_connections is 200", "site.yml"),
    ("transaction", put("postgres", "longest", 7300), "warning", "transaction", "open for 2 h", "xact_start"),
    ("PgBouncer stopped", stopped("pgbouncer.service"), "broken", "PgBouncer", "inactive", "systemctl start pgbouncer"),
    ("PgBouncer hangs", put("pgbouncer", {"answers": False, "databases": {}}), "broken", "PgBouncer", "does not answer", "systemctl restart pgbouncer"),
    ("paused", put("pgbouncer", "databases", "throat", "is_paused", True), "broken", "pool throat", "paused", "RESUME"),
    ("Redis stopped", stopped("redis-server.service"), "broken", "Redis", "inactive", "systemctl start redis-server"),
    ("Redis hangs", put("redis", {"answers": False, "said": "no answer in time"}), "broken", "Redis", "no answer in time", "systemctl restart redis-server"),
    ("Redis refuses", put("redis", {**RECORDED["redis"], "policy": "noeviction", "memory": 2**28}), "broken", "Redis", "evicts nothing", "redis_maxmemory_mb"),
    ("Redis crowded", put("redis", "clients", 9500), "warning", "Redis", "9500 of 10000", "ss -tnp"),
    ("disk fills", put("disks", "/", DISK), "warning", "disk /", "90 % used, 10 GB left", "du -axh /"),
    ("disk full", put("disks", "/", {**DISK, "used": 99 * 10**9, "free": 10**9}), "broken", "disk /", "99 % used", "du -axh /"),
    ("inodes", put("disks", "/", {**DISK, "used": 10**9, "free_inodes": 10}), "broken", "inodes of /", "99 % used", "--inodes"),
    ("NFS is gone", put("disks", "/var/lib/throat", {"answers": False}), "broken", "disk /var/lib/throat", "does not answer", "df"),
    ("memory", put("memory", "available", 10**8), "warning", "memory", "% of", "ps -eo rss"),
    ("killed", put("killed", {"throat-sync.service": 2}), "warning", "memory of throat-sync", "killed 2 times", "journalctl -k"),
    ("load", put("load", "five", 20.0), "warning", "load", "20.0 on 2 cores", "ps -eo pcpu"),
    ("clock wrong", put("clock", {"sent": NOW, "began": NOW - 3600, "ended": NOW - 3598, "is_synchronised": True}), "broken", "clock", "1 h behind", "timedatectl"),
    ("clock ahead", put("clock", {"sent": NOW - 9, "began": NOW + 60, "ended": NOW + 62, "is_synchronised": True}), "broken", "clock", "1 min ahead of", "timedatectl"),
    ("clock free", put("clock", "is_synchronised", False), "warning", "clock", "nothing keeps it", "set-ntp"),
    ("restarts", put("restarts", {"throat-gevent.service": 9}), "warning", "restarts of throat-gevent", "9 in a day", "--since -1d"),
    ("others' unit", put("failed", ["smartd.service"]), "warning", "unit smartd", "has failed", "systemctl status smartd"),
    ("reboot", put("reboot", "kernel 6.1.0-30 runs, 6.1.0-31 is installed"), "warning", "reboot", "6.1.0-31", "reboot"),
    ("updates", put("updates", {"waiting": 9, "security": 3, "known": NOW}), "warning", "updates", "3 for security", "apt-get upgrade"),
    ("backup is old", put("backups", {"backup": {"at": NOW - 3 * 86400, "ok": True, "said": ""}}), "warning", "backup", "3 d ago", "throat-backup"),
    ("backup failed", lambda known: known.update(backups={"backup": {"at": NOW - 60, "ok": False, "said": "the disk is full"}}, failed=["throat-backup@full.service"]), "broken", "backup", "1 min ago, has failed: the disk is full", "journalctl"),
    ("backup crashed", put("failed", ["throat-backup@full.service"]), "warning", "unit throat-backup@full", "has failed", "systemctl status throat-backup@full"),
    ("never a backup", put("backups_since", NOW - 4 * 86400), "warning", "backup", "never run", "list-timers"),
    ("archive", put("postgres", "archive_fails", NOW - 600), "warning", "archive", "since 10 min", "throat-backup list"),
    ("stand-in", lambda known: known["units"].update({"throat-sync_next.service": dict(known["units"]["nginx.service"])}), "warning", "workers", "_next.service", "site.yml"),
    ("egress flushed", put("nft_tables", []), "broken", "egress of the workers", "no table inet throat_egress", "nft -f /etc/throat/egress.nft"),
    ("no drill", put("backups", {"backup": {"at": NOW, "ok": True, "said": ""}, "drill": {"at": NOW - 99 * 86400, "ok": True, "said": ""}}), "warning", "drill", "99 d ago", "journalctl"),
]


def examples():
    """Reports to be looked at: one host and eight, healthy and broken."""
    found = {}
    for name, groups in (("one", ONE), ("eight", EIGHT)):
        made = planned(groups)
        results = answers(made)
        found[f"{name}-healthy"] = copy.deepcopy(report(made, results))
        first = groups["throat_gunicorn"][0]
        put("workers", "gevent", {"status": 0, "seconds": 5, "release": ""})(results[first]["probe"])
        put("disks", "/", DISK)(results[first]["probe"])
        put("requests", {"requests": 5021, "errors": 412, "failed_logins": 3, "first": NOW - 3599})(results[groups["nginx"][0]]["probe"])
        put("updates", {"waiting": 12, "security": 3, "known": NOW})(results[groups["postgres"][0]]["probe"])
        if name == "one":
            stopped("redis-server.service")(results[first]["probe"])
            put("workers", "sync", {"status": 500, "seconds": 0.1, "release": ""})(results[first]["probe"])
        else:
            results["app2"] = {"unreachable": True, "msg": "Failed to connect to the host via ssh: ssh: connect to host 10.0.0.4 port 22: No route to host"}
            put("pgbouncer", "databases", "throat", {"active": 20, "connections": 20, "waiting": 31, "wait": 4.2, "limit": 25, "is_paused": False})(results["pooler"]["probe"])
        found[f"{name}-broken"] = report(made, results)
    return found


@pytest.mark.parametrize("groups", [ONE, EIGHT], ids=["one", "eight"])
def test_nothing_is_wrong_when_all_is_well(groups):
    made = planned(groups)
    told = report(made, answers(made))
    assert wrong(told) == [] and (told["level"], told["exit"]) == ("ok", 0)
    assert {finding["host"] for finding in told["findings"]} == set(groups["throat"])
    assert "all is well" in status.status_text(told)


@pytest.mark.parametrize(("change", "level", "subject", "seen", "command"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_exactly_the_line_of_what_is_broken_turns(change, level, subject, seen, command):
    made = planned(ONE)
    results = answers(made)
    change(results["host1"]["probe"])
    told = report(made, results)
    (found,) = wrong(told)
    assert (found["level"], found["host"], found["subject"]) == (level, "host1", subject)
    assert seen in found["seen"] and command in found["command"] and found["should"], found
    assert told["exit"] == {"warning": 1, "broken": 2}[level]
    text = status.status_text(told)
    assert max(map(len, text.splitlines())) <= status.WIDTH or len(found["command"]) > 90
    assert found["command"] in text


def test_way_to_the_database_that_is_cut_is_the_cause_of_workers_that_hang():
    made = planned(EIGHT)
    results = answers(made)
    results["pooler"]["probe"]["pgbouncer"]["reaches"] = False
    for host in ("app1", "app2", "app3"):
        put("workers", "sync", {"status": 0, "seconds": 5, "release": ""})(results[host]["probe"])
    (found,) = wrong(report(made, results))
    assert (found["host"], found["subject"]) == ("pooler", "way to PostgreSQL") and "pg_isready -h 10.0.0.7" in found["command"]
    assert len(found["so"]) == 3


def test_host_keeps_of_its_pooler_where_that_asks_and_no_password():
    roles = copy.deepcopy(planned(EIGHT)["hosts"]["pooler"])
    roles["pgbouncer"]["databases"][0] |= {"user": "throat", "password": "which-nobody-sees"}
    kept = status.status_plan(roles)
    assert "which-nobody-sees" not in json.dumps(kept)
    assert status.status_questions(kept, "pooler")["pgbouncer"]["server"] == status.status_questions(roles, "pooler")["pgbouncer"]["server"] == ["10.0.0.7", "5432", "throat"]


def test_cases_have_names_of_their_own_and_are_many():
    assert len({case[0] for case in BROKEN}) == len(BROKEN) >= 25


def all_answer_500(results):
    for result in results.values():
        known = result.get("probe") or {"workers": {}}
        known["workers"] = {name: {"status": 500, "seconds": 0.2, "release": ""} for name in known["workers"]}
        if "web" in known:
            known["web"]["health"] = {"status": 503, "seconds": 0.2, "release": ""}


@pytest.mark.parametrize(
    ("host", "change", "subject"),
    [
        ("cache", stopped("redis-server.service"), "Redis"),
        ("pooler", stopped("pgbouncer.service"), "PgBouncer"),
        ("pooler", put("pgbouncer", "databases", "throat", "is_paused", True), "pool throat"),
        ("db", put("postgres", DOWN), "PostgreSQL"),
    ],
    ids=["Redis", "PgBouncer", "paused", "PostgreSQL"],
)
def test_what_follows_is_told_with_its_cause(host, change, subject):
    made = planned(EIGHT)
    results = answers(made)
    change(results[host]["probe"])
    all_answer_500(results)
    (found,) = wrong(report(made, results))
    assert (found["host"], found["subject"]) == (host, subject)
    assert "worker sync on app2: runs, and answers 500" in found["so"] and "way to the workers on web1" in " ".join(found["so"])
    # Socket.IO's handshake, the other workers of three hosts, and two web servers.
    assert len(found["so"]) == 3 * 3 + 2


def test_clients_that_wait_for_a_dead_server_are_not_news():
    made = planned(EIGHT)
    results = answers(made)
    put("postgres", DOWN)(results["db"]["probe"])
    put("pgbouncer", "databases", "throat", {"active": 0, "connections": 0, "waiting": 9, "wait": 15.0, "limit": 25, "is_paused": False})(results["pooler"]["probe"])
    (found,) = wrong(report(made, results))
    assert found["subject"] == "PostgreSQL" and "9 wait" in found["so"][0]


def test_a_broken_worker_is_no_reason_for_another_one():
    made = planned(EIGHT)
    results = answers(made)
    for host in ("app1", "app2"):
        put("workers", "gevent", {"status": 500, "seconds": 0.1, "release": ""})(results[host]["probe"])
    put("web", "health", {"status": 503, "seconds": 0.2, "release": ""})(results["web1"]["probe"])
    found = wrong(report(made, results))
    assert [(one["host"], one["subject"]) for one in found] == [("app1", "worker gevent"), ("app2", "worker gevent")]
    assert [len(one["so"]) for one in found] == [1, 0]


@pytest.mark.parametrize(
    ("result", "seen"),
    [
        ({"unreachable": True, "msg": "Failed to connect to the host via ssh: No route to host"}, "cannot be reached: Failed to connect to the host via ssh: No route to host"),
        ({"failed": True, "module_stderr": "sudo: a password is required\n", "msg": "MODULE FAILURE"}, "cannot be asked: sudo: a password is required"),
        ({}, "cannot be asked: no answer"),
    ],
)
def test_a_host_that_is_down_is_one_line(result, seen):
    made = planned(EIGHT)
    results = {host: (result if host in ("app1", "cache", "web2", "db") else known) for host, known in answers(made).items()}
    all_answer_500({host: known for host, known in results.items() if known is not result})
    found = wrong(report(made, results))
    assert {one["host"] for one in found} == {"app1", "cache", "web2", "db"} and {one["subject"] for one in found} == {"host"}
    assert "app1  no answer" in status.status_text(report(made, {"app1": result}))
    assert found[0]["seen"] == seen and sum(len(one["so"]) for one in found) == 2 * 3 + 1
    assert "no answer" in status.status_text(report(made, results))


def test_what_is_the_same_on_several_hosts_is_one_line_of_the_screen():
    made = planned(EIGHT)
    results = answers(made)
    for host in ("app1", "app2", "db"):
        put("updates", {"waiting": 9, "security": 3, "known": NOW})(results[host]["probe"])
    told = report(made, results)
    assert len(wrong(told)) == 3 and status.status_text(told).count("3 for security wait") == 1
    assert "app1, app2, db" in status.status_text(told)


def test_a_slow_way_is_no_wrong_clock():
    made = planned(ONE)
    results = answers(made)
    put("clock", {"sent": NOW - 40, "began": NOW - 20, "ended": NOW - 18, "is_synchronised": True})(results["host1"]["probe"])
    assert wrong(report(made, results)) == []


def test_hosts_that_are_left_out_are_not_missed():
    made = planned(EIGHT)
    told = report(made, {"app1": answers(made)["app1"]})
    assert list(told["hosts"]) == ["app1"] and wrong(told) == []


def test_one_release_on_all_hosts():
    made = planned(EIGHT)
    results = answers(made)
    put("release", {"name": "0" * 12, "since": NOW})(results["app3"]["probe"])
    results["app3"]["probe"]["workers"] = {name: {**seen, "release": "0" * 12} for name, seen in results["app3"]["probe"]["workers"].items()}
    (found,) = wrong(report(made, results))
    assert (found["host"], found["seen"], found["should"]) == ("app3", "000000000000 is live", "d4f19451d854, as on the others")


def test_limits_are_the_operators():
    made = planned(ONE, throat_status_limits={"disk_percent": 20})
    assert [one["subject"] for one in wrong(report(made, answers(made)))] == ["disk /"]
    assert made["hosts"]["host1"]["site"]["status_limits"]["page_seconds"] == 2
    refused = plan.make({"host1": {**SITE, "throat_status_limits": {"disk": 1}}}, ONE)
    assert "throat_status_limits" in refused["refusals"][0]


def ran(*tasks, failures=0):
    """What Ansible's callback "json" prints of tasks (name, host, result), after a warning."""
    played = [{"task": {"name": name}, "hosts": {host: result}} for name, host, result in tasks]
    stats = {host: {"failures": failures, "unreachable": 0} for host in ("localhost", "host1")}
    return "[WARNING]: something\n" + json.dumps({"plays": [{"tasks": played}], "stats": stats})


@pytest.mark.parametrize(
    ("said", "level", "seen"),
    [
        (ran(("throat.stack.nginx : Site | Write the site", "host1", {"changed": True})), "warning", "site.yml would change 1 thing: Site | Write the site"),
        (ran(("Look", "host1", {"changed": False})), "ok", "none"),
        # A block has rescued it.
        (ran(("Ask", "host1", {"failed": True})), "ok", "none"),
        (ran(("Ask", "host1", {"failed": True}), failures=1), "warning", "cannot be told: Ask fails"),
        ("ERROR! no such thing", "warning", "cannot be told: site.yml does not come to its end"),
    ],
)
def test_drift_is_told_of_what_check_mode_would_change(said, level, seen):
    made = planned(ONE)
    told = status.with_findings(report(made, answers(made)), status.drift_findings(said, "inventories/mysite"))
    (found,) = [finding for finding in told["findings"] if finding["subject"] == "drift" and finding["host"] != "localhost"]
    assert (found["level"], found["seen"], told["exit"]) == (level, seen, {"ok": 0, "warning": 1}[level])


def test_worst_comes_first():
    for told in examples().values():
        levels = [status.LEVELS.index(finding["level"]) for finding in told["findings"]]
        assert levels == sorted(levels)


@pytest.mark.parametrize("name", ["one-healthy", "one-broken", "eight-healthy", "eight-broken"])
def test_no_secret_and_no_request_is_in_what_is_shown(name):
    told = examples()[name]
    page, text = status_page.status_page(told), status.status_text(told)
    for shown in (page, text, json.dumps(told)):
        assert "which-nobody-sees" not in shown
    assert set(re.findall(r"https?://[\w.-]+", page)) == {"https://throat.example.com", "http://www.w3.org"}
    assert not re.search(r"<(script|link(?! rel=\"icon\" href=\"data:,\")|img|iframe)|url\(|@import", page)
    assert max(map(len, text.splitlines())) <= status.WIDTH


def test_page_draws_everybody_and_shows_what_others_say_as_text():
    made = planned(EIGHT)
    results = answers(made)
    results["cache"] = {"unreachable": True, "msg": "<script>alert(1)</script>"}
    page = status_page.status_page(report(made, results))
    assert "<script>" not in page and "&lt;script&gt;" in page
    for drawn in re.findall(r"<svg.*?</svg>", page):
        assert re.findall(r"<title>(.*?)</title>", drawn) == [
            "nginx on web1", "nginx on web2", "workers on app1", "workers on app2", "workers on app3", "PgBouncer on pooler", "Redis on cache", "PostgreSQL on db",
        ]
        # Visitors ask two web servers, those three hosts each, those the pooler and Redis, which is broken, and the pooler the database.
        assert len(re.findall('class="edge', drawn)) == 2 + 6 + 3 + 3 + 1 and len(re.findall('class="edge broken"', drawn)) == 3


def test_a_second_site_and_one_without_a_pooler_are_asked_for_what_they_have():
    made = planned(ONE, throat_gunicorn_config_name="test", throat_database_pooling="peewee", throat_public_url="http://throat.example.com:8080", nginx_tls_mode="none")
    told = status.status_questions(made["hosts"]["host1"], "host1")
    assert "pgbouncer" not in told and told["redis"]["operator"] == "/etc/redis/redis-throat_test.operator"
    assert "redis-server@throat_test.service" in told["units"] and "throat_test-sync.service" in told["units"]
    assert told["web"] == {"name": "throat.example.com", "port": 8080, "tls": False, "closed": "/etc/nginx/throat_test-maintenance"}


# -- what the module reads


def test_probe_takes_and_documents_all_that_it_is_asked(monkeypatch):
    taken = {}

    def module(options, **_):
        taken.update(options)
        raise SystemExit

    monkeypatch.setattr(probe, "AnsibleModule", module)
    with pytest.raises(SystemExit):
        probe.main()
    documented = yaml.safe_load(probe.DOCUMENTATION)["options"]
    assert {name: set(option.get("options", ())) for name, option in taken.items()} == {name: set(option.get("suboptions", ())) for name, option in documented.items()}
    clusters = [in_cluster(throat_backup_repositories=[{"type": "local", "path": "/mnt/backup"}])[0], of_redis()[0]]
    for made in (planned(ONE), planned(EIGHT, throat_metrics=True), *clusters):
        for host, roles in made["hosts"].items():
            for name, value in status.status_questions(roles, host).items():
                assert name in taken and (not isinstance(value, dict) or set(value) <= set(taken[name]["options"]))


def test_units_are_read():
    shown = (
        "Id=nginx.service\nLoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState=enabled\nResult=success\nStateChangeTimestampMonotonic=5000000\n\n"
        "Id=gone.service\nLoadState=not-found\nActiveState=inactive\nSubState=dead\nUnitFileState=\nStateChangeTimestampMonotonic=0\n"
    )
    assert probe.units(shown, 1000.0) == {
        "nginx.service": {"is_there": True, "active": "active", "sub": "running", "enabled": "enabled", "result": "success", "since": 1005},
        "gone.service": {"is_there": False, "active": "inactive", "sub": "dead", "enabled": "", "result": "", "since": 1000},
    }


def line(at, method="GET", uri="/", code=200, upstream="unix:/run/throat/sync.sock", agent="x"):
    return f'{{"time":"2026-11-28T{at}+00:00","method":"{method}","uri":"{uri}","protocol":"HTTP/2.0","status":{code},"upstream":"{upstream}","user_agent":"{agent}"}}'.encode()


def test_requests_of_the_last_hour_are_counted():
    lines = [
        line("05:00:00", code=500),
        line("06:00:01"),
        line("06:10:00", code=502),
        # Closed for maintenance.
        line("06:11:00", code=503, upstream=""),
        line("06:12:00", "POST", "/login", 302),
        line("06:12:01", "POST", "/login?next=/", 200),
        line("06:12:02", "POST", "/login", 429),
        line("06:12:03", "POST", "/api/v3/login", 200),
        line("06:12:04", "POST", "/api/v3/login", 401),
        # Somebody who would like to be counted.
        line("06:13:00", agent='\\"status\\":500,\\"method\\":\\"POST\\",\\"uri\\":\\"/login\\"'),
        b"half a line",
    ]
    since = 1795845600
    assert probe.requests(lines[::-1], since) == {"requests": 9, "errors": 1, "failed_logins": 3, "first": since + 1}


def test_pools_are_read_of_either_version():
    new = (
        "database,user,cl_active,cl_waiting,sv_active,sv_idle,maxwait,maxwait_us,pool_mode\n"
        "pgbouncer,pgbouncer,1,0,0,0,0,0,statement\nthroat,throat,30,4,20,5,2,500000,transaction\nthroat,admin,1,1,1,0,0,0,transaction\n"
        "name,host,current_connections,max_connections,paused\npgbouncer,,0,0,0\nthroat,/run/postgresql,25,25,1\n"
    )
    assert probe.pools(new) == {"throat": {"active": 21, "waiting": 5, "wait": 2.5, "connections": 25, "limit": 25, "is_paused": True}}
    assert probe.pools("") == {}


def test_redis_is_read_and_may_say_no_more_than_that_it_is_there():
    said = "PONG\n# Memory\r\nused_memory:1000\r\nmaxmemory:2000\r\nmaxmemory_policy:noeviction\r\nconnected_clients:3\r\nmaxclients:100\r\nevicted_keys:7\r\n"
    assert probe.redis_info(said) == {"answers": True, "policy": "noeviction", "memory": 1000, "limit": 2000, "clients": 3, "client_limit": 100, "evicted": 7}
    assert probe.redis_info("PONG\nNOPERM this user has no permissions\n")["answers"] is True
    assert probe.redis_info("Could not connect to Redis: Connection refused\n") == {"answers": False, "said": "Could not connect to Redis: Connection refused"}


def test_journal_is_counted():
    lines = [{"UNIT": "a.service", "MESSAGE_ID": probe.RESTARTED}] * 2 + [{"UNIT": "b.service", "MESSAGE_ID": probe.KILLED}]
    assert probe.journal("\n".join(map(json.dumps, lines))) == {"restarts": {"a.service": 2}, "killed": {"b.service": 1}}


def test_what_the_backups_leave_is_read():
    said = '{"backup": {"at": "2026-11-28 06:00:00+00", "ok": false, "said": "the disk is full", "last_success": ""}}'
    assert probe.backup_records(said) == {"backup": {"at": 1795845600.0, "ok": False, "said": "the disk is full"}}
    assert probe.backup_records("") == probe.backup_records("{") == {}


def test_updates_are_counted():
    source, security = "        500 http://deb.debian.org/debian trixie/main amd64 Packages\n", "        500 http://deb.debian.org/debian-security trixie-security/main amd64 Packages\n"
    status = "        100 /var/lib/dpkg/status\n"
    said = (
        f"acl:\n  Installed: 2.3\n  Candidate: 2.3\n  Version table:\n *** 2.3 500\n{security}{status}"
        f"curl:\n  Installed: 8.1\n  Candidate: 8.1+deb1\n  Version table:\n     8.1+deb1 500\n{security} *** 8.1 500\n{source}{status}"
        f"vim:\n  Installed: 9.0\n  Candidate: 9.1\n  Version table:\n     9.1 500\n{source} *** 9.0 500\n{security}{status}"
        f"ours:\n  Installed: 1\n  Candidate: 1\n  Version table:\n *** 1 100\n{status}"
    )
    assert probe.updates(said) == {"waiting": 2, "security": 1}


# What Patroni of three hosts has said.
MEMBERS = [
    {"name": "db1", "role": "sync_standby", "state": "streaming", "lag": 0},
    {"name": "db2", "role": "replica", "state": "streaming", "lag": 0},
    {"name": "db3", "role": "leader", "state": "running"},
]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda probes: None, []),
        (lambda probes: [put("postgres", "leader", "")(probes[host]) for host in ("db1", "db2", "db3")], [("broken", host, "nobody leads") for host in ("db1", "db2", "db3")]),
        (lambda probes: probes["db3"]["postgres"]["members"][1].update(state="stopped"), [("warning", "db3", "db2 does not follow: stopped")]),
        (lambda probes: probes["db3"]["postgres"]["members"].pop(0), [("warning", "db3", "db1 does not follow: unknown to the cluster")]),
        (lambda probes: probes["db3"]["postgres"]["members"][1].update(lag=3 << 30), [("warning", "db3", "db2 lags by 3.2 GB")]),
        (lambda probes: stopped("patroni-spread-leaders.service")(probes["db2"]), [("broken", "db2", "patroni-spread-leaders.service is inactive for 2 min")]),
        (lambda probes: put("etcd", "has_majority", False)(probes["db1"]), [("broken", "db1", "has no majority")]),
        (lambda probes: stopped("pgbouncer-follow-leader.service")(probes["app"]), [("broken", "app", "pgbouncer-follow-leader.service is inactive for 2 min")]),
    ],
)
def test_cluster_says_who_leads_and_who_follows(change, says):
    made, results = in_cluster(throat_backup=False)
    change({host: result["probe"] for host, result in results.items()})
    told = report(made, results)
    assert [(finding["level"], finding["host"], finding["seen"]) for finding in wrong(told)] == says
    assert not says or all(finding["command"] for finding in wrong(told))


WEBS = {"throat": ["web1", "web2"], "nginx": ["web1", "web2"], **{name: ["web1"] for name in ("throat_gunicorn", "pgbouncer", "postgres", "redis")}}


@pytest.mark.parametrize(
    ("holders", "change", "says"),
    [
        (["web2"], lambda probes: None, []),
        ([], lambda probes: None, [("broken", "web1", "nobody holds 10.0.0.9")]),
        (["web1", "web2"], lambda probes: None, [("broken", "web1", "10.0.0.9 is held by web1 and web2")]),
        (["web2"], lambda probes: stopped("keepalived.service")(probes["web1"]), [("broken", "web1", "keepalived.service is inactive for 2 min")]),
    ],
)
def test_address_that_web_servers_have_together_is_held_by_one(holders, change, says):
    made = planned(WEBS, throat_virtual_addresses=["10.0.0.9"], throat_shared_files=False, throat_backup=False)
    results = answers(made)
    probes = {host: result["probe"] for host, result in results.items()}
    for host, probed in probes.items():
        probed["addresses"] = ["10.0.0.9"] if host in holders else []
    change(probes)
    told = report(made, results)
    assert [(finding["level"], finding["host"], finding["seen"]) for finding in wrong(told)] == says
    assert all(finding["command"] for finding in wrong(told))
    assert says or ("ok", "web2", "holds 10.0.0.9") in [(finding["level"], finding["host"], finding["seen"]) for finding in told["findings"]]
    # Of its own metrics each host is asked alone, and the other one may hold it.
    alone = report({**made, "hosts": {"web1": made["hosts"]["web1"]}}, {"web1": results["web1"]})
    assert says[:1] == [("broken", "web1", "keepalived.service is inactive for 2 min")] or wrong(alone) == []


def test_playbook_asks_all_that_is_to_be_asked():
    (play,) = [play for play in yaml.safe_load((ROOT / "playbooks/status.yml").read_text()) if play.get("name") == "Status"]
    (asks,) = [task["throat.stack.probe"] for block in play["tasks"] for task in block.get("block", []) if "throat.stack.probe" in task]
    webs = planned(WEBS, throat_virtual_addresses=["10.0.0.9"], throat_shared_files=False)
    for made in (planned(EIGHT), webs, in_cluster(throat_backup=False)[0], of_redis()[0]):
        assert {name for host, roles in made["hosts"].items() for name in status.status_questions(roles, host)} <= set(asks)


def test_leaders_are_spread_where_etcd_is_beside_them():
    made, _results = in_cluster(throat_backup=False)
    assert "patroni-spread-leaders.service" in status.status_questions(made["hosts"]["db1"], "db1")["units"]
    apart = {host: {role: told for role, told in roles.items() if role != "etcd"} for host, roles in made["hosts"].items()}
    assert "patroni-spread-leaders.service" not in status.status_questions(apart["db1"], "db1")["units"]


REDIS_OF = {"db1": {"leads": False, "follows": "10.0.0.4"}, "db2": {"leads": False, "follows": "10.0.0.4"}, "db3": {"leads": True, "followers": ["10.0.0.2", "10.0.0.3"]}}


def nobody_leads(probes):
    for host in REDIS_OF:
        put("redis", "sentinel", {"answers": True, "leader": "10.0.0.4", "is_well": False})(probes[host])
    put("haproxy", "redis", [])(probes["app"])


def of_redis():
    """Three hosts with Redis, of which db3 leads, and one with the rest: their plan, and what they answer where all is well."""
    databases = list(REDIS_OF)
    groups = {"throat": ["app", *databases], "redis": databases, "postgres": ["db1"], **{name: ["app"] for name in ("pgbouncer", "throat_gunicorn", "nginx")}}
    made = planned(groups, throat_cluster_password="cluster-secret-which-nobody-sees", throat_backup=False)
    results = answers(made)
    probes = {host: result["probe"] for host, result in results.items()}
    for host, said in REDIS_OF.items():
        probes[host]["redis"] |= {**said, "sentinel": {"answers": True, "leader": "10.0.0.4", "is_well": True}}
    probes["app"]["haproxy"] = {"redis": ["db3"]}
    return made, results


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda probes: None, []),
        (nobody_leads, [("broken", "app", "leads to nobody"), *[("broken", host, "nobody leads: db3 does not answer") for host in REDIS_OF]]),
        (lambda probes: put("redis", "followers", ["10.0.0.2"])(probes["db3"]), [("warning", "db3", "db2 does not follow")]),
        (lambda probes: put("redis", "leads", True)(probes["db1"]), [("warning", "db1", "takes itself for the leader, which is db3")]),
        (lambda probes: put("redis", "sentinel", {"answers": False})(probes["db2"]), [("warning", "db2", "runs, and does not answer")]),
        (lambda probes: stopped("redis-sentinel.service")(probes["db2"]), [("broken", "db2", "redis-sentinel.service is inactive for 2 min")]),
        (lambda probes: stopped("haproxy.service")(probes["app"]), [("broken", "app", "haproxy.service is inactive for 2 min")]),
    ],
)
def test_members_of_redis_say_who_leads_and_who_follows(change, says):
    made, results = of_redis()
    change({host: result["probe"] for host, result in results.items()})
    told = report(made, results)
    assert [(finding["level"], finding["host"], finding["seen"]) for finding in wrong(told)] == says
    assert all(finding["command"] for finding in wrong(told))
    assert says or {finding["seen"] for finding in told["findings"] if finding["subject"] in ("Redis members", "way to Redis")} == {
        "leads; db1, db2 follow", "follows db3", "leads to db3"
    }


def test_members_of_redis_are_read():
    said = (
        "# Memory\r\nused_memory:1\r\nmaxmemory:2\r\nmaxmemory_policy:x\r\nconnected_clients:3\r\nmaxclients:4\r\nevicted_keys:0\r\n"
        "role:master\r\nconnected_slaves:2\r\nslave0:ip=10.0.0.2,port=6379,state=online,offset=9,lag=0\r\nslave1:ip=10.0.0.3,port=6379,state=wait_bgsave,offset=0,lag=0\r\n"
    )
    found = probe.redis_info(said)
    assert (found["leads"], found["followers"]) == (True, ["10.0.0.2"])
    found = probe.redis_info(said.replace("role:master", "role:slave\r\nmaster_host:10.0.0.4\r\nmaster_link_status:up"))
    assert (found["leads"], found["follows"]) == (False, "10.0.0.4")
    assert probe.redis_info(said.replace("role:master", "role:slave\r\nmaster_host:10.0.0.4\r\nmaster_link_status:down"))["follows"] == ""
    said = "# Sentinel\r\nsentinel_masters:1\r\nmaster0:name=throat,status=ok,address=10.0.0.4:6379,slaves=2,sentinels=3\r\n"
    assert probe.sentinel_info(said) == {"answers": True, "leader": "10.0.0.4", "is_well": True}
    assert probe.sentinel_info(said.replace("=ok", "=odown"))["is_well"] is False
    assert probe.sentinel_info("Could not connect to Redis") == {"answers": False}


def test_backups_of_a_cluster_are_told_of_by_whoever_leads():
    made, results = in_cluster(throat_backup_repositories=[{"type": "local", "path": "/mnt/backup"}])
    for host in ("db1", "db2", "db3"):
        put("backups", {"backup": {"at": NOW - 9 * 86400, "ok": True, "said": ""}})(results[host]["probe"])
    assert [(finding["host"], finding["subject"]) for finding in wrong(report(made, results))] == [("db3", "backup")]
    assert status.status_questions(made["hosts"]["db1"], "db1")["postgres"]["notes"] == "throat_backup.notes"


def in_cluster(**variables):
    """Three hosts with the database, of which db3 leads, and one with the rest: their plan, and what they answer where all is well."""
    databases = ["db1", "db2", "db3"]
    groups = {"throat": ["app", *databases], "postgres": databases, **{name: ["app"] for name in ("pgbouncer", "redis", "throat_gunicorn", "nginx")}}
    made = planned(groups, throat_cluster_password="cluster-secret-which-nobody-sees", **variables)
    results = answers(made)
    probes = {host: result["probe"] for host, result in results.items()}
    for host in databases:
        probes[host]["postgres"] |= {"unit": "patroni@17-main", "leader": "db3", "members": copy.deepcopy(MEMBERS)}
        probes[host]["etcd"] = {"answers": True, "has_majority": True}
    return made, results
