"""The fault campaign: for each fault what visitors saw, what was lost, what the status said, and who brought it back. Writes the table of docs/faults.md."""

import pytest
from conftest import START_REDIS, STATUS_LIMITS
from faults import Fault, broken, campaign

KILL = "systemctl kill --kill-whom=main --signal=KILL {}"
CHILD = "kill -KILL $(pgrep -P $(systemctl show --value --property=MainPID {}) | head -n 1)"
CUT = "nft add table inet faults; nft add chain inet faults out '{ type filter hook output priority 0; }'; nft add rule inet faults out oif lo tcp dport 6379 drop; nft add rule inet faults out oif lo tcp sport 6379 drop"
CERTIFICATE = "/etc/ssl/certs/throat.pem"
DISK = "/var/lib/postgresql"
FULL = "mkdir -p /run/below; mount --bind {0} /run/below; mount -t tmpfs -o size=30m,mode=755 none {0}; cp -a /run/below/. {0}/; head -c 1G /dev/zero > {0}/full || true"
REOPEN = "systemctl kill --signal=USR1 --kill-whom=main nginx"
PSQL = "runuser -u postgres -- psql -qc"
WRITE = f"""{PSQL} 'CREATE TABLE faults (t text)'
for n in $(seq 12); do {PSQL} 'INSERT INTO faults SELECT repeat(md5(n::text), 20) FROM generate_series(1, 5000) n' || true; {PSQL} 'SELECT pg_switch_wal()' || true; done"""
FORGET = f"until {PSQL} 'DROP TABLE IF EXISTS faults'; do sleep 1; done"

FAULTS = [
    *(Fault(f"SIGKILL of {unit}", KILL.format(unit)) for unit in ("nginx", "throat-sync", "throat-gevent", "throat-socketio", "pgbouncer", "redis-server", "postgresql@17-main", "throat-follow-redis")),
    *(Fault(f"SIGKILL of a process of {unit}", CHILD.format(unit)) for unit in ("nginx", "throat-sync", "throat-gevent", "throat-socketio", "postgresql@17-main")),
    Fault("PostgreSQL is gone for a minute", "systemctl stop postgresql@17-main", 60, "systemctl start postgresql@17-main", "itself, once PostgreSQL is started"),
    Fault("PgBouncer is gone for a minute", "systemctl stop pgbouncer", 60, "systemctl start pgbouncer", "itself, once PgBouncer is started"),
    Fault("Redis is gone for a minute", "systemctl stop redis-server", 60, START_REDIS, "itself, once Redis is started"),
    Fault("a worker hangs (SIGSTOP of a process of throat-sync)", CHILD.replace("KILL", "STOP").format("throat-sync"), 75),
    Fault("a worker hangs (SIGSTOP of the process of throat-gevent)", CHILD.replace("KILL", "STOP").format("throat-gevent"), 75),
    Fault("the way to Redis is cut for a minute", CUT, 60, "nft delete table inet faults"),
    Fault("the ways between all are slow (1 Mbit/s)", "tc qdisc add dev lo root tbf rate 1mbit burst 16kb latency 400ms", 30, "tc qdisc del dev lo root"),
    Fault("DNS is gone for a minute", "cat /etc/resolv.conf > /run/resolv && echo nameserver 192.0.2.1 > /etc/resolv.conf", 60, "cat /run/resolv > /etc/resolv.conf"),
    Fault("the certificate has run out", f"cp -p {CERTIFICATE} /run/kept.pem; openssl req -x509 -key /etc/ssl/private/throat.key -subj /CN=localhost -addext subjectAltName=DNS:localhost "
          f"-not_before 20250101000000Z -not_after 20250201000000Z -out {CERTIFICATE}; systemctl reload nginx", 20, f"cp -p /run/kept.pem {CERTIFICATE}; systemctl reload nginx", "the next run of site.yml"),
    Fault("disk full under the uploads", FULL.format("/var/lib/throat"), 30, "umount -l /var/lib/throat /run/below"),
    Fault("disk full under the logs", f"{FULL.format('/var/log')}; {REOPEN}", 30, f"umount -l /var/log /run/below; {REOPEN}"),
    # Not until a segment of its log finds no room does it notice.
    Fault("disk full under PostgreSQL", f"head -c 1T /dev/zero > {DISK}/full || true; {WRITE}", 30, f"rm {DISK}/full; {FORGET}", "itself, once there is room"),
]  # fmt: skip


@pytest.fixture
def database_on_a_small_disk(on_host):
    """For the fault that it is full: the cluster on a file system of its own, with a little room; on the one that it had again at the end."""
    stop, start = "systemctl stop postgresql@17-main", "systemctl start postgresql@17-main"
    on_host(f"{stop}; mkdir /var/lib/pg-small; mount -t tmpfs -o size=$(( $(du -sm {DISK} | cut -f1) + 60 ))m none /var/lib/pg-small; "
            f"cp -a {DISK}/. /var/lib/pg-small/; mount --bind /var/lib/pg-small {DISK}; {start}")  # fmt: skip
    yield
    on_host(f"{stop}; umount {DISK}; find {DISK} -mindepth 1 -delete; cp -a /var/lib/pg-small/. {DISK}/; umount /var/lib/pg-small; rmdir /var/lib/pg-small; {start}")


@pytest.mark.campaign
def test_site_outlives_faults(urls, pause, on_host, run_site, tmp_path, database_on_a_small_disk):
    on_host("command -v nft >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nftables")
    campaign(FAULTS, "One host", urls, pause, on_host, lambda: broken(run_site, STATUS_LIMITS, tmp_path), run_site)
