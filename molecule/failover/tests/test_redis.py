"""Redis on three hosts: another one leads, because the one that leads is stopped, has crashed or is gone with its host, and the site goes on by itself."""

import contextlib
import itertools
import json
import subprocess
import time
from collections.abc import Iterator

import pytest
import socketio
from cluster import MEMBERS, SITE, ask_redis, leader, on, redis_leader, redis_members, wait_until_all_are_well, wait_until_redis_is_well

# Pages that ask Redis, less often than what it counts of them is limited.
PAGES = {"sync page that asks Redis": ("GET", "/all/new", 1.1), "gevent page that asks Redis": ("GET", "/register", 1.1)}
# Writes ten times a second, with the library that workers have; prints when each was answered, or why it was not, and in the end which are still there.
WRITER = """
import json, sys, threading, time, redis, yaml
server = redis.from_url(yaml.safe_load(open("/etc/throat/config.yaml"))["app"]["redis_url"])
ended, tries = threading.Event(), []
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
while not ended.wait(0.1):
    began = time.monotonic()
    try:
        server.set(f"test-{len(tries)}", "1", ex=600)
        failure = ""
    except redis.RedisError as error:
        failure = f"{type(error).__name__}: {error}"
    tries.append([began, time.monotonic(), failure])
print(json.dumps({"tries": tries, "there": [server.get(f"test-{number}") is not None for number in range(len(tries))]}))
"""


class Writer:
    """Somebody who writes into Redis on the application host, until stop() is called."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            ["docker", "exec", "-i", SITE, "/opt/throat/current/.venv/bin/python", "-c", WRITER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def stop(self) -> str:
        """What has become of it, for people; without: seconds in which nothing was answered, lost: how many that were answered are not there."""
        said, errors = self.process.communicate("", timeout=60)
        assert self.process.returncode == 0, errors
        found = json.loads(said)
        answered = sorted(end for _began, end, failure in found["tries"] if not failure)
        self.without = max((later - earlier for earlier, later in zip(answered, answered[1:])), default=999.0)
        self.lost = sum(not failure and not there for (_began, _end, failure), there in zip(found["tries"], found["there"]))
        self.failures = [failure for _began, _end, failure in found["tries"] if failure]
        return (
            f"Redis: {self.without:.1f} s without writes, {len(self.failures)} of {len(found['tries'])} failed {sorted(set(self.failures))}, "
            f"{self.lost} of {len(answered)} that were answered are lost"
        )


@pytest.fixture
def also() -> dict:
    return PAGES


@pytest.fixture
def writer(there) -> Iterator[Writer]:
    """Before whatever happens all are well, and after it they are so by themselves."""
    wait_until_redis_is_well()
    found = Writer()
    time.sleep(4)
    yield found
    if found.process.poll() is None:
        found.process.kill()
    wait_until_redis_is_well(120)


def told(title: str, there, writer: Writer, since: float) -> float:
    """Print what has become of it; seconds in which no page of a kind that asks Redis was answered, the longest."""
    print(there.table(f"{title}. {writer.stop()}", [visit for visit in there.visits if visit.began < since], there.since(since)))
    for visit in there.visits:
        if visit.failure:
            print(f"{visit.kind}: {visit.failure}, asked {visit.began - since:.1f} s after it, for {visit.seconds:.1f} s")
    gaps = []
    for kind in PAGES:
        ended = sorted(visit.began + visit.seconds for visit in list(there.visits) if visit.kind == kind and not visit.failure)
        gaps += [later - earlier for earlier, later in zip(ended, ended[1:]) if later > since]
    print(f"the longest time in which no page that asks Redis was answered: {max(gaps):.1f} s")
    return max(gaps)


def tabs_hear_each_other(there, since: float) -> None:
    """Wait until each tab is connected, and hears what another one says to all, which goes by Redis; a minute at most after something has happened."""
    for word in itertools.count():
        assert time.monotonic() < since + 60, "no tab hears what another one says"
        # One that is closed, and does not know it yet, is told of it here.
        with contextlib.suppress(socketio.exceptions.SocketIOError):
            there.tabs[0].tell("ping-all", {"word": word})
        time.sleep(0.5)
        if all(tab.connected and {"word": word} in tab.heard["pong-all"] for tab in there.tabs):
            print(f"all tabs hear each other again {time.monotonic() - since:.1f} s after it")
            return


def test_one_leads_and_the_status_says_so(run_site, tmp_path):
    wait_until_redis_is_well()
    run_site({"status_file": str(tmp_path / "status.json")}, playbook="playbooks/status.yml", check=False)
    found = json.loads((tmp_path / "status.json").read_text())["findings"]
    leads = redis_leader()
    follow = ", ".join(host for host in MEMBERS if host != leads)
    assert {finding["host"]: finding["seen"] for finding in found if finding["subject"] in ("Redis members", "way to Redis")} == {
        SITE: f"leads to {leads}", **{host: f"leads; {follow} follow" if host == leads else f"follows {leads}" for host in MEMBERS}
    }


def test_nobody_else_is_let_in_and_nobody_may_do_more_than_it_needs():
    # (Who reaches the ports at all is a test of test_failover.py.)
    for port in (6379, 26379):
        assert "NOAUTH" in on(MEMBERS[0], f"redis-cli -p {port} ping 2>&1", check=False)
    # HAProxy's password is on each application host.
    password = on(SITE, "awk '/AUTH throat-check/ { sub(/\\\\r.*/, \"\", $5); print $5; exit }' /etc/haproxy/throat.cfg")
    assert len(password) == 64
    as_haproxy = f"REDISCLI_AUTH={password} redis-cli --user throat-check"
    assert "role:" in on(MEMBERS[0], f"{as_haproxy} info replication")
    for words in ("get x", "set x 1", "config get masterauth", "replicaof no one"):
        assert "NOPERM" in on(MEMBERS[0], f"{as_haproxy} {words} 2>&1", check=False)
    for words in ("sentinel failover throat", "sentinel masters", "info", "acl list"):
        assert "NOPERM" in on(MEMBERS[0], f"{as_haproxy} -p 26379 {words} 2>&1", check=False), words
    assert on(SITE, "stat -c '%a %U %G' /etc/haproxy/throat.cfg") == "640 root haproxy"


def test_redis_that_leads_is_stopped_and_hands_over(there, writer):
    since, before = time.monotonic(), redis_leader()
    on(before, "systemctl stop redis-server")
    print(f"it has stopped after {time.monotonic() - since:.1f} s")
    tabs_hear_each_other(there, since)
    time.sleep(5)
    on(before, "systemctl start redis-server")
    print(f"all members are well {wait_until_redis_is_well():.1f} s after it has come back")
    gap = told("the Redis that leads is stopped", there, writer, since)
    assert redis_leader() != before and gap <= 20 and writer.without <= 20
    # What was in memory stays, but for two seconds or so in which another one begins to lead.
    assert writer.lost <= 25 and len(there.failed()) <= 20


def test_redis_that_leads_is_killed(there, writer):
    since, before = time.monotonic(), redis_leader()
    on(before, "systemctl kill --signal=KILL redis-server")
    tabs_hear_each_other(there, since)
    time.sleep(8)
    print(f"all members are well {wait_until_redis_is_well():.1f} s later")
    gap = told("SIGKILL of the Redis that leads", there, writer, since)
    # systemd starts it at once, and another one leads all the same, who has what was in memory.
    assert redis_leader() != before and gap <= 20 and writer.without <= 20
    assert writer.lost <= 20 and len(there.failed()) <= 20


def test_host_of_the_redis_that_leads_is_gone_and_comes_back(there, writer):
    # Not that of PostgreSQL, which is another story.
    while redis_leader() == leader():
        on(redis_leader(), "sh /etc/redis/throat-member.sh hand-over")
        wait_until_redis_is_well()
    since, gone = time.monotonic(), redis_leader()
    subprocess.run(["docker", "kill", gone], check=True, capture_output=True)
    try:
        while redis_leader() in ("", gone):
            assert time.monotonic() - since < 40
            time.sleep(0.2)
        print(f"another one leads after {time.monotonic() - since:.1f} s")
        tabs_hear_each_other(there, since)
        time.sleep(8)
        gap = told("the host of the Redis that leads is gone", there, writer, since)
        now = redis_leader()
    finally:
        subprocess.run(["docker", "start", gone], check=True, capture_output=True)
    again = time.monotonic()
    says = set()
    while time.monotonic() - again < 25:
        says.add(redis_members()[gone].partition(" ")[0])
    assert says <= {"slave", "", ";"} and "slave" in says, says
    wait_until_redis_is_well()
    assert redis_leader() == now and gap <= 20 and writer.without <= 20
    assert writer.lost <= 20 and len(there.failed()) <= 30
    wait_until_all_are_well(180)


def test_what_has_become_of_redis_stays(run_site):
    before = redis_leader()
    assert run_site().changed == 0
    assert redis_leader() == before


@pytest.mark.campaign
def test_a_change_that_wants_a_restart_is_made_member_by_member(run_site, there, writer):
    since = time.monotonic()
    run_site({"redis_maxmemory_mb": 300}, "--tags", "redis")
    for host in MEMBERS:
        assert "maxmemory:314572800" in ask_redis(host, "INFO", "memory")
    assert told("another memory limit", there, writer, since) <= 20
    wait_until_redis_is_well()
    run_site({}, "--tags", "redis")
    wait_until_redis_is_well()
    assert run_site().changed == 0


@pytest.mark.campaign
def test_password_changes_while_people_use_the_site(run_site, there, writer):
    since = time.monotonic()
    run_site({"rotate": "redis_password"}, playbook="playbooks/rotate_secrets.yml")
    told("a new password", there, writer, since)
    assert there.failed() == []
    assert run_site().changed == 0
