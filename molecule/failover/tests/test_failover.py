"""A database on three hosts: another one leads, because somebody wants it or because the leader is gone, and nothing that was answered is lost."""

import json
import os
import re
import subprocess
import time

import pytest
from cluster import MEMBERS, PATRONICTL, SITE, ask_etcd, leader, members, on, voice, wait_until_all_are_well


def count_posts(host: str = "") -> int:
    """Rows that visitors have written, as a member has them; of whoever leads, where none is named."""
    return int(on(host or leader(), "runuser -u postgres -- psql -d throat -Atqc 'SELECT count(*) FROM user_metadata'"))


def backups(host: str) -> dict:
    return json.loads(on(host, "throat-backup list --json"))


def without_writes(there, since: float) -> float:
    """The longest time in which no post was answered."""
    answered = sorted(visit.began + visit.seconds for visit in there.visits if visit.kind == "post" and not visit.failure and visit.began + visit.seconds > since)
    return max(later - earlier for earlier, later in zip([since, *answered], answered))


def told(title: str, there, since: float) -> None:
    print(there.table(f"{title}: {without_writes(there, since):.1f} s without writes", [visit for visit in there.visits if visit.began < since], there.since(since)))
    for visit in there.visits:
        if visit.failure:
            print(f"{visit.kind}: {visit.failure}, asked {visit.began - since:.1f} s after it, for {visit.seconds:.1f} s")


def test_one_leads_and_the_others_follow(urls, answers_again):
    answers_again(30)
    wait_until_all_are_well()
    assert set(members()) == set(MEMBERS)


def test_whoever_leads_makes_the_backups(run_site):
    said = run_site(playbook="playbooks/backup.yml").said
    before = leader()
    assert {host for host in MEMBERS if f"Backups of throat on {host}, in /mnt/backup" in said} == {before}
    assert {host for host in MEMBERS if f"Backups of throat on {host}: another of " in said} == set(MEMBERS) - {before}
    (first,) = backups(before)["sets"]
    assert first["host"] == before and first["rows"]["public.user_metadata"] == count_posts()


def test_etcd_is_led_by_another_host_than_the_database():
    own = json.loads(ask_etcd(leader()))[0]["Status"]["header"]["member_id"]
    ask_etcd(voice(True), f"move-leader {own:x}")
    deadline = time.monotonic() + 40
    while voice(True) == leader():
        assert time.monotonic() < deadline
        time.sleep(1)


def test_another_password_of_the_cluster_is_refused(run_site):
    other = {"throat_cluster_password": "of-another-cluster-with-forty-characters"}
    run = run_site(other, check=False)
    assert run.returncode != 0 and run.changed == 0
    for host in (SITE, *MEMBERS):
        assert f"throat_cluster_password: not the one that {host} knows (of Redis), and it cannot be changed" in run.said
    # Where only PostgreSQL has several hosts, etcd says so.
    known = {host: "/etc/redis/throat-users.conf" for host in MEMBERS} | {SITE: "/etc/haproxy/throat.cfg"}
    for host, path in known.items():
        on(host, f"mv {path} {path}.away")
    try:
        run = run_site(other, check=False)
    finally:
        for host, path in known.items():
            on(host, f"mv {path}.away {path}")
    assert run.returncode != 0 and run.changed == 0 and "throat_cluster_password: not the one by which the members know each other" in run.said


def test_nobody_is_let_in_without_a_password():
    assert "user name is empty" in on(MEMBERS[0], "ETCDCTL_API=3 etcdctl --cacert /etc/etcd/trusted.pem --endpoints https://10.213.0.61:2379 get / --prefix 2>&1", check=False)
    assert "401" in on(MEMBERS[0], "curl --silent --insecure --request POST --output /dev/null --write-out '%{http_code}' https://10.213.0.61:8008/restart")


def test_ports_are_open_to_those_hosts_only_that_need_them(open_ports):
    reached, planned = open_ports()
    assert reached == planned
    # Of etcd, Patroni, PostgreSQL, Sentinel and Redis all but the first.
    assert {port for source, _host, port in reached if source == SITE} == {8008, 5432, 26379, 6379}


def test_another_one_leads_by_a_playbook_and_nobody_fails(run_site, there):
    before = leader()
    to = next(host for host, (role, _state) in members().items() if role == "Sync Standby")
    time.sleep(4)
    since = time.monotonic()
    run_site({"to": to}, playbook="playbooks/switchover.yml")
    time.sleep(4)
    told("a switchover", there, since)
    assert leader() == to != before
    assert there.failed() == [] and there.tabs_are_open()
    assert max(there.longest(kind, there.since(since)) for kind in ("post", "sync page", "gevent page")) < 15


def test_postmaster_of_the_leader_is_killed(there):
    time.sleep(4)
    since = time.monotonic()
    on(leader(), "kill -9 $(head -n 1 /var/lib/postgresql/17/main/postmaster.pid)")
    time.sleep(30)
    told("SIGKILL of the leader's postmaster", there, since)
    assert without_writes(there, since) <= 30


def test_host_of_the_leader_is_gone_and_comes_back(there, run_site):
    time.sleep(4)
    since, gone = time.monotonic(), leader()
    subprocess.run(["docker", "kill", gone], check=True, capture_output=True)
    try:
        time.sleep(20)
        while leader() in ("", gone):
            assert time.monotonic() - since < 50
            time.sleep(1)
        # The operator goes on without it.
        refused = run_site(check=False)
        assert refused.returncode != 0 and refused.changed == 0 and f"{gone}: no answer (see above), and nothing was changed" in refused.said
        assert f"--limit '!{gone}'" in refused.said
        assert run_site({}, "--limit", f"!{gone}").changed == 0
        told("the leader's host is gone", there, since)
        assert without_writes(there, since) <= 30
    finally:
        subprocess.run(["docker", "start", gone], check=True, capture_output=True)
    print(f"all members are well {wait_until_all_are_well(180):.0f} s after it has come back")


def test_an_empty_machine_takes_the_place_of_one_that_is_gone(run_site, there):
    gone = next(host for host, (role, _state) in members().items() if role == "Replica")
    subprocess.run(["docker", "rm", "--force", "--volumes", gone], check=True, capture_output=True)
    as_debian_is = {name: value for name, value in os.environ.items() if name != "TEST_IMAGES"}
    run_site(playbook="molecule/shared/create.yml", env=as_debian_is)
    before, since = leader(), time.monotonic()
    assert run_site().changed > 10
    print(f"{gone} is a member again {time.monotonic() - since + wait_until_all_are_well():.0f} s after the machine was there")
    assert set(members()) == set(MEMBERS) and leader() == before
    assert there.failed() == []


def test_whoever_leads_next_goes_on_with_the_backups():
    wait_until_all_are_well()
    first = backups(leader())["sets"][0]
    if first["host"] == leader():
        # The failovers have chosen it again.
        to = next(host for host, (role, _state) in members().items() if role == "Sync Standby")
        on(to, f"{PATRONICTL} switchover --force --candidate {to}")
        wait_until_all_are_well()
    now = leader()
    assert first["host"] != now
    on(now, "throat-backup now && throat-backup drill")
    there = backups(now)
    assert [found["host"] for found in there["sets"]][::len(there["sets"]) - 1] == [first["host"], now]
    # Of the newest, whose WAL is of another leader than that of the backup that it begins from.
    assert there["sets"][-1]["proven"] and there["status"]["backup"]["ok"] and "WAL is missing" not in there["text"]


def test_a_set_of_a_leader_of_before_is_restored_and_undone(run_site, answers_again):
    now, posts = leader(), count_posts()
    first = backups(now)["sets"][0]
    assert first["rows"]["public.user_metadata"] < posts
    run_site({"restore_to": first["set"]}, playbook="playbooks/restore.yml")
    assert leader() == now
    answers_again(20)
    assert [count_posts(host) for host in MEMBERS] == [first["rows"]["public.user_metadata"]] * 3
    run_site({"undo": True}, playbook="playbooks/restore.yml")
    assert [count_posts(host) for host in MEMBERS] == [posts] * 3


def test_what_has_become_of_it_stays(run_site):
    wait_until_all_are_well()
    before, run = leader(), run_site()
    assert run.changed == 0, [found for found in re.split(r"\n(?=TASK)", run.output) if "\nchanged:" in found]
    assert leader() == before


@pytest.mark.campaign
def test_a_change_that_wants_a_restart_is_made_member_by_member(run_site, there):
    # Of fewer connections the leader has to know first, of more the others.
    for more in ({"postgres_max_connections": 110}, {}):
        run_site(more, "--tags", "postgres")
        assert there.failed() == []
        wanted = str(more.get("postgres_max_connections", 100))
        assert [on(host, "runuser -u postgres -- psql -Atqc 'SHOW max_connections'") for host in MEMBERS] == [wanted] * 3
        assert run_site(more).changed == 0
    print(there.table("max_connections 100 to 110 and back", [], there.visits))
