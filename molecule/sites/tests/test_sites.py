"""Two sites on one host, seen from outside: what one of them has, the other does not know."""

import contextlib
import json
import subprocess
import time

import pytest

UNITS = ("sync", "gevent", "socketio", "follow-redis")
TITLES = "SELECT title FROM sub_post"


def test_each_answers_under_its_own_name_from_its_own_database(first, second, forget_limits, query):
    posts = {first: f"First {time.time()}", second: f"Second {time.time()}"}
    for site, title in posts.items():
        site.write(title)
    pages = {site: site.visitor().get(f"{site.url}/all/new").text for site in posts}
    assert "<title>Throat</title>" in pages[first] and "<title>The second site</title>" in pages[second]
    for site, other in ((first, second), (second, first)):
        assert posts[site] in pages[site] and posts[other] not in pages[site]
        assert posts[site] in query(site.name, TITLES) and posts[other] not in query(site.name, TITLES)


@pytest.mark.parametrize("path", ["/all/new", "/register", "/socket.io/?EIO=4&transport=polling", "/static/robots.txt"])
def test_every_worker_class_of_both_answers(pair, forget_limits, path):
    site, _ = pair
    assert site.visitor().get(site.url + path).status_code == 200


def test_neither_reads_the_database_of_the_other(pair, on_host):
    own, other = pair

    def select(user: str, options: str) -> bool:
        return on_host(f"PGPASSWORD={own.secret('database_password')} runuser -u {user} -- psql {options} -Atqc 'SELECT 1' 2>&1 || true") == "1"

    assert select(own.name, f"-d {own.name}")
    assert select("nobody", f"-h 127.0.0.1 -U {own.name} -d {own.name}")
    for port in (5432, 6432):
        for role in (own.name, other.name, "postgres"):
            assert not select(own.name, f"-p {port} -U {role} -d {other.name}"), f"{role} over the socket of {port}"
            assert not select("nobody", f"-p {port} -h 127.0.0.1 -U {role} -d {other.name}"), f"{role} over TCP to {port}"


def test_neither_reads_the_files_or_reaches_the_workers_of_the_other(pair, on_host):
    own, other = pair
    assert on_host(f"stat -c '%U:%G %a' /etc/{own.name}/config.yaml") == f"root:{own.name} 640"
    assert "Permission denied" in on_host(f"runuser -u {own.name} -- cat /etc/{other.name}/config.yaml 2>&1 || true")
    assert "Permission denied" in on_host(f"runuser -u {own.name} -- touch /var/lib/{other.name}/uploads/x 2>&1 || true")
    worker = "curl -s -o /dev/null -w '%{http_code}' -H 'X-Forwarded-For: 127.0.0.1' --unix-socket"
    assert on_host(f"runuser -u {own.name} -- {worker} /run/{other.name}/sync.sock http://localhost/ || true") == "000"


def test_neither_is_let_into_the_redis_of_the_other(pair, on_host):
    own, other = pair
    knock = f"runuser -u {own.name} -- bash -c ': < /dev/tcp/127.0.0.1/%d' 2>&1 || true"
    assert on_host(knock % own.redis_port) == "" and "Connection refused" in on_host(knock % other.redis_port)
    assert on_host(f"{own.redis} PING") == "PONG"
    assert "WRONGPASS" in on_host(f"redis-cli -p {other.redis_port} --user throat --pass {own.secret('redis_password')} PING 2>&1")
    assert on_host(f"redis-cli -p {own.redis_port} PING 2>&1").startswith("NOAUTH")


def test_session_of_one_is_unknown_to_the_other(pair, forget_limits):
    own, other = pair
    cookies = own.admin().cookies.get_dict()
    assert "/u/admin" in own.visitor(cookies).get(f"{own.url}/").text
    page = other.visitor(cookies).get(f"{other.url}/")
    assert page.status_code == 200 and "/u/admin" not in page.text and "Log in" in page.text


def test_rate_limit_of_one_does_not_limit_the_other(pair, forget_limits):
    own, other = pair
    visitor = own.visitor()
    codes = [visitor.get(f"{own.url}/_ref/whoami").status_code for _ in range(65)]
    assert codes == [200] * 60 + [429] * 5
    assert other.visitor().get(f"{other.url}/_ref/whoami").status_code == 200


def test_websocket_message_of_one_does_not_reach_the_other(pair, forget_limits):
    own, other = pair
    with contextlib.closing(own.listen()) as own_tab, contextlib.closing(other.listen()) as other_tab:
        title = f"Announced {time.time()}"
        own.write(title)
        own_heard, other_heard = own_tab.hears("thread"), other_tab.hears("thread", within=2)
        assert ([post["title"] for post in own_heard], other_heard) == ([title], [])


def test_restart_of_ones_redis_restarts_its_own_async_workers_alone(pair, on_host, state, first):
    own, other = pair

    def started() -> list[str]:
        return on_host(f"systemctl show -p InvocationID --value {own.name}-sync {own.name}-gevent {own.name}-socketio").split()

    before, theirs = started(), state(other)
    on_host(f"systemctl restart redis-server{'' if own is first else '@' + own.name}")
    deadline = time.monotonic() + 30
    while {before[1], before[2]} & set(started()) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert [then == now for then, now in zip(before, started())] == [True, False, False]
    assert state(other) == theirs


def test_run_of_one_changes_nothing_of_either(first, second, run_site, state):
    before = state(first), state(second)
    # The second has been made after the first.
    for site in (first, second):
        assert run_site(inventory=site.inventory).changed == 0, site.name
    for site in (first, second):
        assert run_site({}, "--check", "--diff", inventory=site.inventory).changed == 0, site.name
    assert (state(first), state(second)) == before


def test_nginx_warns_of_nothing_and_refuses_names_that_are_nobodys(first, second, on_host):
    assert on_host("nginx -t -q 2>&1") == ""
    for site in (first, second):
        port = site.url.rpartition(":")[2]
        assert on_host(f"curl -sk -o /dev/null -w '%{{http_code}}' --connect-to ::127.0.0.1:{port} https://other.example.com/ || true") == "000"
    assert on_host("curl -s -o /dev/null -w '%{http_code} %{redirect_url}' http://localhost/") == f"301 {first.url}/"
    assert on_host("curl -s -o /dev/null -w '%{http_code} %{redirect_url}' http://localhost:8080/") == f"301 {second.url}/"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"throat_gunicorn_config_name": "Test-2"}, ["throat_gunicorn_config_name: Test-2, but must be made of lower-case letters and digits, a letter first"]),
        (
            {"throat_database_pooling": "pgbouncer", "throat_firewall": "host", "redis_port": 6379},
            [
                "throat_database_pooling: pgbouncer, but the machine's PgBouncer belongs to the site of the configuration production",
                "throat_firewall: host, but the machine's firewall belongs to the site of the configuration production",
                "redis_port: 6379, but that is the Redis of the site of the configuration production",
            ],
        ),
        # A pooler of its own would make another budget.
        (
            {"redis_instance": "", "throat_database_headroom": 46},
            [
                "redis_instance: empty, but that is the Redis of the site of the configuration production",
                "postgres_max_connections on throat-stack-sites: 100 is less than the 101 connections",
            ],
        ),
    ],
    ids=["its name", "what is the machine's", "what is shared"],
)
def test_second_site_that_takes_what_is_the_firsts_is_refused(second, run_site, variables, said):
    run = run_site(variables, inventory=second.inventory, check=False)
    assert run.returncode != 0 and run.changed == 0 and [line for line in said if line not in run.said] == []


def test_deploy_of_one_leaves_the_other_alone_and_both_may_share_a_port_by_their_names(first, second, run_site, release, state, on_host, forget_limits):
    own, other = second, first
    before, old = state(other), own.visitor().get(f"{own.url}/").headers["X-Throat-Release"]
    shared = {"throat_public_url": "https://test.example.com:8454", "nginx_http_port": 80, "throat_check_url": other.url}
    source = release({"app/views.py": f"\n# {time.time()}\n"}, own.name)
    run_site({**shared, "throat_gunicorn_source": source}, playbook="playbooks/deploy.yml", inventory=own.inventory)
    assert state(other) == before
    assert on_host("nginx -t -q 2>&1") == ""
    ask = "curl -sk --connect-to ::127.0.0.1:"
    for name, title in (("localhost", "Throat"), ("test.example.com", "The second site")):
        assert f"<title>{title}</title>" in on_host(f"{ask} https://{name}:8454/all/new")
        assert on_host(f"{ask} -o /dev/null -w '%{{redirect_url}}' http://{name}/") == f"https://{name}:8454/"
    assert on_host(f"{ask} -o /dev/null -w '%{{http_code}}' https://other.example.com:8454/ || true") == "000"
    code, new = on_host(f"{ask} -o /dev/null -w '%{{http_code}} %header{{x-throat-release}}' https://test.example.com:8454/").split()
    assert code == "200" and new != old
    # Back to the release of before, and to a port of its own.
    run_site(None, playbook="playbooks/rollback.yml", inventory=own.inventory)
    assert state(other) == before
    assert own.visitor().get(f"{own.url}/").headers["X-Throat-Release"] == old


def test_both_come_back_after_a_reboot(first, second, on_host, forget_limits):
    subprocess.run(["docker", "restart", on_host("hostname")], check=True, capture_output=True)
    began = time.monotonic()
    # It says "offline" until systemd itself is there, and what the boot came to afterwards.
    assert on_host("timeout 300 sh -c 'until systemctl is-system-running --wait 2>/dev/null | grep -E \"running|degraded\"; do sleep 0.2; done'") == "running"
    for site in (first, second):
        for unit in UNITS:
            assert on_host(f"systemctl is-active {site.name}-{unit}") == "active"
        for path in ("/all/new", "/register", "/socket.io/?EIO=4&transport=polling"):
            assert site.visitor().get(site.url + path).status_code == 200
    print(f"both answer {time.monotonic() - began:.1f} s after the reboot")


@pytest.fixture(scope="module")
def closed(second, run_site):
    """The second site is closed for maintenance, until the last test."""
    run_site(None, "-e", "maintenance=on", playbook="playbooks/maintenance.yml", inventory=second.inventory)
    yield second
    run_site(None, "-e", "maintenance=off", playbook="playbooks/maintenance.yml", inventory=second.inventory)


def test_each_is_closed_for_maintenance_by_itself(first, closed, forget_limits):
    assert [site.visitor().get(f"{site.url}/").status_code for site in (closed, first)] == [503, 200]


def test_status_asks_the_workers_of_its_own_site_and_tells_of_its_own_maintenance(pair, closed, run_site, tmp_path):
    own, other = pair
    run_site(None, "-e", f"status_file={tmp_path}/status.json", playbook="playbooks/status.yml", inventory=own.inventory)
    told = json.loads((tmp_path / "status.json").read_text())
    (host,) = told["hosts"].values()
    assert told["site"] == own.name and {f"{own.name}-{kind}.service" for kind in host["workers"]} <= set(host["probe"]["units"])
    assert not [unit for unit in host["probe"]["units"] if unit.startswith(f"{other.name}-")]
    assert {kind: answer["status"] for kind, answer in host["probe"]["workers"].items()} == dict.fromkeys(("sync", "gevent", "socketio"), 200)
    assert ("maintenance" in {finding["subject"] for finding in told["findings"] if finding["level"] == "warning"}) == (own is closed)
