"""The fault campaign on three hosts that have the database together: what is lost, who leads, and for how long nobody does. Writes its table of docs/faults.md."""

from __future__ import annotations

import collections.abc
import dataclasses
import os
import random
import subprocess
import time

import pytest
from cluster import MEMBERS, PATRONICTL, leader, members, on, rows, voice, wait_until_all_are_well
from faults import write
from test_failover import without_writes

HEAD = (
    "| fault | without writes | failed of all | longest answer | lost | answered by whom nobody reaches, and lost | all members well after |\n"
    "|---|---|---|---|---|---|---|\n"
)
KILL = "kill -9 $(head -n 1 /var/lib/postgresql/17/main/postmaster.pid)"
KILL_PATRONI = "systemctl kill --signal=KILL patroni@17-main"
CUT = (
    "nft 'add table inet faults; add chain inet faults in {{ type filter hook input priority -10; }}; add chain inet faults out {{ type filter hook output priority -10; }}; {}'"
)
IN, OUT, MEND = 'add rule inet faults in iif != "lo" drop', 'add rule inet faults out oif != "lo" drop', "nft delete table inet faults"
SMALL = "/var/lib/pg-small"
PSQL = "runuser -u postgres -- psql -d throat -qc"
FILL = f"""head -c 1T /dev/zero > /var/lib/postgresql/full || true
for n in $(seq 12); do timeout 5 {PSQL} 'CREATE TABLE faults_'$n' AS SELECT repeat(md5(n::text), 20) FROM generate_series(1, 5000) n' || true; timeout 5 {PSQL} 'SELECT pg_switch_wal()' || true; done"""


def follower() -> str:
    return next(host for host, (role, _state) in members().items() if role == "Replica")


@dataclasses.dataclass
class Loss:
    """What is done to a host (or to all members), for how many seconds it stays so, and how it ends; alone: it may believe that it leads, and takes writes."""

    name: str
    begin: str
    lasts: int = 0
    end: str = ""
    whom: collections.abc.Callable[[], str | tuple[str, ...]] = leader
    alone: bool = False


LOSSES = [
    # What mends itself has the time to be noticed, and to be waited for.
    Loss("SIGKILL of the leader's postmaster", KILL, 20),
    Loss("SIGKILL of the leader's Patroni", KILL_PATRONI, 20),
    Loss("the leader's host is gone for 40 s", "docker kill {}", 40, "docker start {}"),
    Loss("the leader's host freezes for 40 s", "docker pause {}", 40, "docker unpause {}"),
    Loss("the leader is cut off for 60 s", CUT.format(f"{IN}; {OUT}"), 60, MEND, alone=True),
    Loss("nothing reaches the leader for 60 s", CUT.format(IN), 60, MEND, alone=True),
    Loss("the leader sends nothing for 60 s", CUT.format(OUT), 60, MEND, alone=True),
    Loss("a follower's host is gone for 40 s", "docker kill {}", 40, "docker start {}", follower),
    Loss("SIGKILL of etcd's leader", "systemctl kill --signal=KILL etcd", 20, whom=lambda: voice(True)),
    Loss("a member of etcd is stopped for 40 s", "systemctl stop etcd", 40, "systemctl start etcd", lambda: voice(False)),
    Loss("all of etcd is stopped for a minute", "systemctl stop etcd", 60, "systemctl start --no-block etcd", lambda: MEMBERS),
]


def do(command: str, hosts: str | tuple[str, ...]) -> None:
    for host in (hosts,) if isinstance(hosts, str) else hosts:
        # The machine that hosts run on pulls the plug.
        subprocess.run(command.format(host).split(), check=True, capture_output=True) if command.startswith("docker ") else on(host, command)


def suffer(loss: Loss, there) -> tuple[float, set[str]]:
    """Do it and undo it; returns when it began, and what the host has answered meanwhile to who writes on it."""
    host, answered = loss.whom(), set()
    if loss.alone:
        on(str(host), f"""{PSQL} "INSERT INTO user_metadata (key, value) VALUES ('ref', 'whoever leads takes this')" """)
    began = time.monotonic()
    do(loss.begin, host)
    while time.monotonic() < began + loss.lasts:
        if loss.alone:
            value = f"alone-{there.name}-{len(answered)}-{time.monotonic_ns()}"
            ask = f"""timeout 4 {PSQL} "INSERT INTO user_metadata (key, value) VALUES ('ref', '{value}')" """
            if subprocess.run(["docker", "exec", str(host), "sh", "-c", ask], capture_output=True, check=False).returncode == 0:
                answered.add(value)
        time.sleep(1)
    if loss.end:
        do(loss.end, host)
    return began, answered


def row(loss: Loss, there) -> str:
    # One at a time: to a host that was cut off, TCP goes on trying after up to a minute, and etcd's members have no other way to hear each other.
    time.sleep(60)
    began, answered = suffer(loss, there)
    ended = time.monotonic()
    wait_until_all_are_well(300)
    well = time.monotonic() - ended
    time.sleep(4)
    written, visits = set(there.written), there.since(began)
    lost = max(len(written - set(rows(host, there))) for host in MEMBERS)
    kept = on(leader(), f"""{PSQL.replace("-qc", "-Atqc")} "SELECT value FROM user_metadata WHERE value LIKE 'alone-%'" """).split()
    failed = [visit for visit in visits if visit.failure]
    print(
        line := f"| {loss.name} | {without_writes(there, began):.1f} s | {len(failed)} of {len(visits)} | {max(visit.seconds for visit in visits):.1f} s "
        f"| {lost} | {len(answered - set(kept))} of {len(answered)} | {well:.0f} s |",
        flush=True,
    )
    return line


@pytest.fixture
def small_disk():
    """A member with a little room on its disk, by its name; on the disk that it had again at the end."""
    wait_until_all_are_well()
    host, stop, start = follower(), "systemctl stop patroni@17-main", "systemctl start patroni@17-main"
    on(host, f"{stop}; mkdir {SMALL}; mount -t tmpfs -o size=$(( $(du -sm /var/lib/postgresql | cut -f1) + 90 ))m none {SMALL}; "
             f"cp -a /var/lib/postgresql/. {SMALL}/; mount --bind {SMALL} /var/lib/postgresql; {start}")  # fmt: skip
    wait_until_all_are_well()
    yield host
    on(host, f"{stop}; umount /var/lib/postgresql; find /var/lib/postgresql -mindepth 1 -delete; cp -a {SMALL}/. /var/lib/postgresql/; umount {SMALL}; rmdir {SMALL}; {start}")
    wait_until_all_are_well(180)


@pytest.mark.campaign
def test_nothing_is_lost_and_two_never_lead(there, small_disk):
    lines = []
    try:
        for loss in LOSSES:
            lines.append(row(loss, there))
        if leader() != small_disk:
            on(leader(), f"{PATRONICTL} switchover --leader {leader()} --candidate {small_disk} --force")
            wait_until_all_are_well()
        lines.append(row(Loss("the leader's disk is full for 40 s", FILL, 40, "rm -f /var/lib/postgresql/full"), there))
        on(leader(), f"for n in $(seq 12); do {PSQL} \"DROP TABLE IF EXISTS faults_$n\"; done")
    finally:
        write("Three hosts with the database", lines, HEAD)
    assert all("| 0 | 0 of " in line for line in lines)


@pytest.mark.campaign
def test_ten_failovers_in_a_row(there):
    seed = int(os.environ.get("SEED", random.randrange(1_000_000)))
    print(f"SEED={seed}", flush=True)
    chance, lasted = random.Random(seed), []
    for number in range(10):
        loss = chance.choice(LOSSES[:7])
        wait_until_all_are_well(300)
        before = leader()
        began, _answered = suffer(dataclasses.replace(loss, lasts=min(loss.lasts, 35)), there)
        wait_until_all_are_well(300)
        time.sleep(4)
        lasted.append(without_writes(there, began))
        print(f"{number + 1}. {loss.name}: {lasted[-1]:.1f} s without writes, {before} led, {leader()} leads", flush=True)
    assert set(there.written) <= set.intersection(*(set(rows(host, there)) for host in MEMBERS))
    # Some come before etcd has heard of the end of the one before.
    assert max(lasted) <= 90
