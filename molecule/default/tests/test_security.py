"""What a process of the site may do that somebody has taken over: what systemd, the kernel and Redis refuse."""

import re

from conftest import ANSWERING

# Debian's services have more to do than ours, which begin with throat- or pgbouncer-; a drill restores files with their owners.
LIMITS = {"throat-backup@": 1.4, "throat": 1.3, "pgbouncer-pause@": 1.3, "redis-server": 1.3, "pgbouncer": 2.5, "nginx": 2.5, "postgresql@": 4.0}
REFUSED = "nft list counter inet throat_egress refused | awk '/packets/ {print $2}'"


def test_every_service_is_confined(exposures):
    limits = {unit: next(limit for name, limit in LIMITS.items() if unit.startswith(name)) for unit in exposures}
    assert {re.split("@|-(sync|gevent|socketio)", unit)[0] for unit in exposures} >= {"throat", "throat-follow-redis", "throat-backup", *(name.strip("@") for name in LIMITS)}
    assert not {unit: score for unit, score in exposures.items() if score > limits[unit]}, exposures


def test_workers_reach_public_addresses_and_no_others(fetched, on_host):
    """The address that they fetch is one that a user has named."""
    refused = int(on_host(REFUSED))
    assert fetched(ANSWERING["public"]) == dict.fromkeys(("sync", "gevent", "socketio"), {"got": "<title>elsewhere</title>\n"})
    for name in ("private", "metadata of a cloud", "loopback"):
        for worker, said in fetched(ANSWERING[name]).items():
            assert "Connection refused" in said.get("refused", ""), (worker, name, said)
    # By its public name a host is asked for nothing but the site.
    assert all("Connection refused" in said["refused"] for said in fetched("http://198.51.100.1:5432/").values())
    assert int(on_host(REFUSED)) >= refused + 12


def test_workers_do_not_read_what_is_not_theirs(fetched):
    for path in ("/etc/shadow", "/etc/throat-backup.json", "/etc/ssl/private/throat.key", "/root/.bashrc", "/proc/1/environ"):
        for said in fetched(f"file://{path}").values():
            assert re.search("Permission denied|No such file", said["refused"]), (path, said)


def test_redis_does_for_the_application_what_it_needs_and_nothing_else(on_host, secrets):
    redis = f"redis-cli --no-auth-warning --user throat --pass {secrets['redis_password']}"
    # By the tests so far.
    assert "acl_access_denied_cmd:0" in on_host(f"{redis} INFO stats")
    for command in ("CONFIG GET '*'", "FLUSHALL", "CLIENT LIST", "MONITOR", "EVAL 'return 1' 0", "MODULE LIST", "ACL LIST", "REPLICAOF 10.99.0.80 6379", "HSET a b c"):
        assert "NOPERM" in on_host(f"{redis} {command} 2>&1"), command


def test_audit_asks_for_every_package_of_the_release_and_does_not_take_silence_for_health(run_site, on_host):
    installed = int(on_host("ls -d /opt/throat/current/.venv/lib/python3*/site-packages/*.dist-info | wc -l"))
    run = run_site(playbook="playbooks/audit.yml", check=False)
    assert run.changed == 0
    # A registry that answers names the packages that it has been asked for; the tests' own machines reach none that does.
    silent, answered = f"(it skips all {installed})", re.search(r"known holes? in (\d+) Python packages", run.said)
    assert (run.returncode != 0 and silent in run.said) if answered is None else (0 < int(answered[1]) <= installed)
