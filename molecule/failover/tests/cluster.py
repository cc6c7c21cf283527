"""What the tests of this scenario ask its hosts: who leads the database and Redis, and whether all members are well."""

import json
import subprocess
import time

SITE, MEMBERS = "throat-stack-site", ("throat-stack-db1", "throat-stack-db2", "throat-stack-db3")
PATRONICTL = "runuser -u postgres -- patronictl -c /etc/patroni/17-main.yml"


def on(host: str, command: str, check: bool = True, stdin: str = "") -> str:
    """Output of a shell command, run as root on a host."""
    done = subprocess.run(["docker", "exec", "-i", host, "bash", "-c", f"cd / && {command}"], input=stdin, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def members() -> dict[str, tuple[str, str]]:
    """Each member with its role and state, as the first that can be asked says."""
    for host in MEMBERS:
        said = on(host, f"timeout 20 {PATRONICTL} list -f json", check=False)
        if said:
            return {found["Member"]: (found["Role"], found["State"]) for found in json.loads(said)}
    return {}


def leader() -> str:
    return next((name for name, (role, _state) in members().items() if role == "Leader"), "")


def wait_until_all_are_well(within: float = 120) -> float:
    """Seconds until one leads, one follows it commit by commit, and the third follows as well."""
    began = time.monotonic()
    while sorted(members().values()) != [("Leader", "running"), ("Replica", "streaming"), ("Sync Standby", "streaming")]:
        assert time.monotonic() - began < within, members()
        time.sleep(1)
    return time.monotonic() - began


def ask_etcd(host: str, words: str = "endpoint status -w json") -> str:
    """What a host's member of etcd says."""
    return on(host, f"ETCDCTL_API=3 etcdctl --cacert /etc/etcd/trusted.pem --endpoints https://127.0.0.1:2379 {words}")


def voice(leads: bool) -> str:
    """A member of etcd that leads it, or one that does not."""
    # They are asked one after the other, while the lead may move.
    for _attempt in range(20):
        for host in MEMBERS:
            said = json.loads(ask_etcd(host))[0]["Status"]
            if (said["leader"] == said["header"]["member_id"]) == leads:
                return host
        time.sleep(0.5)
    raise AssertionError("etcd has no leader")


def rows(host: str, there) -> list[str]:
    """What visitors have written, as a member has it."""
    return on(host, f"""runuser -u postgres -- psql -d throat -Atqc "SELECT value FROM user_metadata WHERE value LIKE '{there.name}-%'" """).split()


def ask_redis(host: str, *words: str, port: int = 6379) -> str:
    """What a member's Redis, or its Sentinel, says to root of its host."""
    said = f'REDISCLI_AUTH=$(cat /etc/redis/throat.operator) timeout 3 redis-cli --user throat-operator -p {port} {" ".join(words)}'
    return on(host, said, check=False).replace("\r", "")


def redis_members() -> dict[str, str]:
    """Each member with what it says of itself ("master with 2", "slave up") and whom its Sentinel takes for the leader."""
    found = {}
    for host in MEMBERS:
        info = dict(line.split(":", 1) for line in ask_redis(host, "INFO", "replication").splitlines() if ":" in line)
        sentinel = [line.partition("status=")[2].split(",") for line in ask_redis(host, "INFO", "sentinel", port=26379).splitlines() if line.startswith("master0:")]
        role = info.get("role", "")
        says = f"{role} with {info['min_slaves_good_slaves']}" if role == "master" else f"{role} {info.get('master_link_status', '')}".strip()
        found[host] = f"{says}; {' '.join(sentinel[0]) if sentinel else 'no Sentinel'}"
    return found


def redis_leader() -> str:
    """Whoever leads Redis, as HAProxy of the application host finds out."""
    asked = "curl --silent --unix-socket /run/haproxy/throat-redis.sock http://localhost"
    return " ".join(host for host in MEMBERS if on(SITE, f"{asked}/{host}", check=False) == "leads")


def wait_until_redis_is_well(within: float = 60) -> float:
    """Seconds until one leads with two that follow, all Sentinels know each other and name it, and HAProxy leads there."""
    began = time.monotonic()
    while True:
        found, leads = redis_members(), redis_leader()
        named = {said.partition("; ")[2] for said in found.values()}
        roles = sorted(said.partition(";")[0] for said in found.values())
        well = roles == ["master with 2", "slave up", "slave up"] and len(named) == 1 and named.pop().endswith("slaves=2 sentinels=3")
        if well and leads in found and found[leads].startswith("master"):
            return time.monotonic() - began
        assert time.monotonic() - began < within, (found, leads)
        time.sleep(0.5)
