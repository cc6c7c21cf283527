"""Workers in containers: how they are started, kept, deployed, taken back and moved, and what nobody may read of them."""

import dataclasses
import json
import shlex
import subprocess
import time

import pytest
import requests
from conftest import ANSWERING, PROBES, changed_app
from visitors import Visitors

DEPLOY = "playbooks/deploy.yml"
REGISTRY = "127.0.0.1:5001/throat"
CONTAINER, NATIVE = {"throat_gunicorn_runtime": "container"}, {"throat_gunicorn_runtime": "native"}
# Seconds between two requests of a visitor.
PAUSE = 0.4
CLASSES = ("sync", "gevent", "socketio")
HOSTS = ("throat-stack-container", "throat-stack-container2")
# Asks the gevent worker of the first host, which has the web server beside it.
ASK = "curl --silent --output /dev/null --write-out '%{http_code}' --header 'X-Forwarded-For: 127.0.0.1' --unix-socket /run/throat/gevent.sock http://localhost/_ref/gevent/sleep"


def running(name: str = "") -> list[int]:
    """How many containers each host runs, of all workers or of one."""
    label = f"throat.unit{name and f'=throat-{name}'}"
    return [len(subprocess.run(["docker", "exec", host, "docker", "ps", "--quiet", "--filter", f"label={label}"], check=True, capture_output=True).stdout.split()) for host in HOSTS]


def from_registry(tag: str) -> dict[str, str]:
    return {"throat_gunicorn_source_type": "image", "throat_gunicorn_source": REGISTRY, "throat_gunicorn_version": tag}


@pytest.fixture
def pause() -> float:
    return PAUSE


@pytest.fixture(scope="session")
def releases(url):
    """The releases that the worker classes answer from."""
    return lambda: {requests.get(url + path, verify=False, timeout=30).headers["X-Throat-Release"] for path in PROBES for _ in HOSTS}


@pytest.fixture
def serving(releases, flush_limits):
    """The release that all worker classes answer from."""

    def ask() -> str:
        flush_limits()
        (found,) = releases()
        return found

    return ask


@pytest.fixture
def inspect(host):
    """What the engine says of the container of a worker."""
    return lambda name: json.loads(host.check_output(f"docker inspect $(docker ps --quiet --filter label=throat.unit=throat-{name})"))[0]


@pytest.fixture(scope="module")
def images(host):
    """Images in the registry: v1 is the one that the host has built, v2 another version of it, broken one that does not start."""
    made = host.check_output("cat /opt/throat/current/.image")
    for tag, line in (("v1", "true"), ("v2", "echo '# another version' >> /throat/app/views.py"), ("broken", "echo 'raise RuntimeError(\"broken\")' >> /throat/throat_prod.py")):
        recipe = shlex.quote(f"FROM {made}\nUSER root\nRUN {line}\nUSER throat\n")
        host.check_output(f"printf %s {recipe} | docker build --quiet --tag {REGISTRY}:{tag} - && docker push --quiet {REGISTRY}:{tag}")
    host.check_output(f"docker image rm {REGISTRY}:v1 {REGISTRY}:v2 {REGISTRY}:broken")


def test_three_classes_by_the_documented_variables(host, inspect, serving):
    expected = {"sync": {"WORKER_COUNT=2", "THREAD_COUNT=1"}, "gevent": {"WORKER_CONNECTIONS=40"}, "socketio": {"WORKER_CONNECTIONS=1000"}}
    release = host.check_output("basename $(readlink /opt/throat/current)")
    assert serving() == release
    for name in CLASSES:
        found = inspect(name)
        assert {f"WORKER_TYPE={name}", "CONFIG_NAME=production", "SITE_TRUSTED_PROXY_COUNT=1"} | expected[name] <= set(found["Config"]["Env"])
        assert found["Config"]["Image"] == f"throat:{release}" and f"release {release}" in host.check_output(f"systemctl show -p StatusText throat-{name}")


@pytest.mark.parametrize("kind", CLASSES)
def test_image_alone_keeps_the_contract(host, inspect, kind):
    """As Throat's documentation has it: on port 5000, with the variables alone."""
    user, mounts = inspect("sync")["Config"]["User"], "-v /etc/throat:/throat/configs/production:ro -v /run/postgresql:/run/postgresql -v /var/lib/throat:/var/lib/throat"
    host.check_output(f"docker run --rm --detach --name by-hand --network host --user {user} {mounts} -e WORKER_TYPE={kind} -e CONFIG_NAME=production -e WORKER_CONNECTIONS=40 $(cat /opt/throat/current/.image)")
    try:
        said = json.loads(host.check_output("curl --silent --retry 20 --retry-connrefused --retry-delay 1 -H 'X-Forwarded-For: 127.0.0.1' http://127.0.0.1:5000/_ref/whoami"))
    finally:
        host.check_output("docker rm --force by-hand")
    assert said["worker_class"] == kind


def test_container_can_do_nothing_but_its_work(host, inspect, exposures):
    for name in CLASSES:
        found = inspect(name)
        status = host.check_output(f"cat /proc/{found['State']['Pid']}/status")
        assert f"Uid:\t{host.user('throat').uid}" in status and "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status
        assert host.run(f"docker exec {found['Name'][1:]} touch /throat/app/new").rc != 0
        assert host.run(f"docker exec {found['Name'][1:]} touch /var/lib/throat/uploads/new").rc == 0
    # Nothing listens at an address that is not private but the web server; the workers of the second host do so for that one.
    assert not host.run("ss -Hltnp | grep -v -E ' (127[.0-9]+|\\[::1\\]|10.213.0.51):|nginx'").stdout
    # (That of backups is native, and the scenario default's.)
    ours = {unit: score for unit, score in exposures.items() if unit.startswith(("throat", "pgbouncer-pause@")) and not unit.startswith("throat-backup@")}
    assert {"throat-sync", "throat-gevent", "throat-socketio", "throat-follow-redis"} < set(ours) and max(ours.values()) <= 1.3, ours


def test_containers_reach_public_addresses_and_no_others(host, fetched):
    # As after a boot, where nobody but the workers' units loads the fence.
    host.check_output("nft delete table inet throat_egress && systemctl restart throat-socketio")
    assert fetched(ANSWERING["public"]) == dict.fromkeys(CLASSES, {"got": "<title>elsewhere</title>\n"})
    for name in ("private", "metadata of a cloud", "loopback"):
        assert all("Connection refused" in said.get("refused", "") for said in fetched(ANSWERING[name]).values()), name
    assert all("Permission denied" in said["refused"] for said in fetched("file:///etc/shadow").values())


def test_engine_says_that_workers_are_healthy(inspect):
    deadline = time.time() + 60
    while (states := {inspect(name)["State"]["Health"]["Status"] for name in CLASSES}) != {"healthy"} and time.time() < deadline:
        time.sleep(2)
    assert states == {"healthy"}


@pytest.mark.parametrize(
    "accident",
    ["docker kill $(docker ps --quiet --filter label=throat.unit=throat-gevent)", "systemctl kill --kill-whom=main --signal KILL throat-gevent", "systemctl restart docker"],
    ids=["killed container", "killed supervisor", "restarted engine"],
)
def test_worker_comes_back_by_itself(host, accident, serving):
    before, start = serving(), time.monotonic()
    host.check_output(accident)
    while host.run(f"{ASK}?s=0 --max-time 5").stdout != "200" and time.monotonic() - start < 60:
        time.sleep(0.1)
    print(f"{accident}: serves again after {time.monotonic() - start:.1f} s")
    assert serving() == before and running("gevent") == [1, 1]


def test_request_in_flight_ends_when_the_worker_stops(host):
    asked = subprocess.Popen(["docker", "exec", HOSTS[0], "bash", "-c", f"{ASK}?s=4"], stdout=subprocess.PIPE, text=True)
    time.sleep(1)
    start = time.monotonic()
    host.check_output("systemctl stop throat-gevent.socket throat-gevent")
    stopped = time.monotonic() - start
    host.check_output("systemctl start throat-gevent")
    assert asked.communicate()[0] == "200" and 2 < stopped < 10


def test_second_host_runs_the_image_that_the_first_has_made(host, url):
    image = "docker image inspect --format '{{.Id}}' $(cat /opt/throat/current/.image)"
    there = subprocess.run(["docker", "exec", HOSTS[1], "bash", "-c", f"{image}; ls /opt/throat/environments; command -v gcc node"], capture_output=True, text=True, check=False).stdout
    assert there.split() == [host.check_output(image)]
    # Nobody compiles any of it as a worker starts.
    compiled = "docker exec $(docker ps --quiet --filter label=throat.unit=throat-sync) python -v -c 'import throat_prod' 2>&1 | grep -E '^# code object from /(opt|throat)/' || true"
    assert host.check_output(compiled) == ""
    assert running() == [3, 3]
    answers = [requests.get(f"{url}/_ref/sleep?s=0", verify=False, timeout=30) for _ in range(8)]
    assert {(answer.status_code, answer.headers["X-Ref-Host"]) for answer in answers} == {(200, name) for name in HOSTS}


def test_deploys_by_tag_and_archive_and_a_rollback_are_noticed_by_nobody(images, run_site, host, tmp_path, visitors, serving):
    host.check_output(f"docker pull --quiet {REGISTRY}:v1 && docker save --output /root/v3.tar {REGISTRY}:v1")
    subprocess.run(["docker", "cp", f"{HOSTS[0]}:/root/v3.tar", tmp_path / "v3.tar"], check=True, capture_output=True)
    host.check_output(f"rm /root/v3.tar; docker image rm {REGISTRY}:v1")
    tag, archive = from_registry("v2"), {"throat_gunicorn_source_type": "image_archive", "throat_gunicorn_source": str(tmp_path / "v3.tar"), "throat_gunicorn_version": "v3"}
    quiet = []
    for title, variables, playbook, release in (("deploy by tag", tag, DEPLOY, "v2"), ("deploy of an archive", archive, DEPLOY, "v3"), ("rollback", tag, "playbooks/rollback.yml", "v2")):
        start = time.monotonic()
        run_site(variables, playbook=playbook)
        end = time.monotonic()
        time.sleep(3)
        took, busy = end - start, visitors.since(start)
        assert serving() == release and {visit.release for visit in visitors.since(end) if visit.release} == {release}
        if not quiet:
            start = time.monotonic()
            assert run_site(variables, playbook=playbook).changed == 0
            quiet = visitors.since(start)
        print(visitors.table(f"{title} in {took:.0f} s", quiet, busy))
    assert visitors.failed() == [] and visitors.tabs_are_open() and len(visitors.visits) > 500


def test_image_that_does_not_start_is_named_and_the_one_before_serves(images, run_site, serving):
    before = serving()
    run = run_site(from_registry("broken"), playbook=DEPLOY, check=False)
    assert run.returncode != 0 and "RuntimeError: broken" in run.said and f"release {before} goes on serving" in run.said
    assert serving() == before


@dataclasses.dataclass
class Moved:
    """What was seen of a release that went from containers to native, where the host built it, and from there into containers, for which the host made its image."""

    variables: dict[str, str]
    release: str
    # What runs after each move: the release that answers, containers on each host, and stand-ins that are left.
    seen: dict[str, tuple[str, list[int], str]]
    # What people were answered meanwhile, and during a run with nothing to do.
    busy: dict[str, list]
    quiet: list
    again: int
    # Of the database.
    rows: set[str]
    visitors: Visitors


@pytest.fixture(scope="module")
def moved(host, on_host, run_site, people, releases, tmp_path_factory):
    """People use the site meanwhile and afterwards; /root/sample is what others could see while the image was made and went live."""
    variables = {"throat_gunicorn_source": str(changed_app(tmp_path_factory.mktemp("moved") / "app", {"app/views.py": f"\n# the version of {time.time()}\n"}))}
    counts = "runuser -u postgres -- psql -d throat -Atqc 'SELECT (SELECT count(*) FROM sub_post), (SELECT count(*) FROM \"user\"), (SELECT count(*) FROM migratehistory)'"
    sample = "while :; do cat /proc/*/cmdline; docker inspect $(docker ps --all --quiet); sleep 0.1; done 2>/dev/null | tr '\\0' ' ' > /root/sample"
    rows, seen, busy, again, quiet = {on_host(counts)}, {}, {}, 0, []
    with people(PAUSE) as visitors:
        for title, runtime in (("container to native", NATIVE), ("native to container", CONTAINER)):
            if runtime is CONTAINER:
                start = time.monotonic()
                again = run_site({**variables, **NATIVE}, playbook=DEPLOY).changed
                quiet = visitors.since(start)
                host.check_output(f"systemd-run --unit=test-sampler bash -c {shlex.quote(sample)}")
            start = time.monotonic()
            run_site({**variables, **runtime}, playbook=DEPLOY)
            end = time.monotonic()
            busy[f"{title} in {end - start:.0f} s"] = [visit for visit in visitors.since(start) if visit.began < end]
            (release,) = releases()
            seen[title] = release, running(), on_host("ls /run/systemd/system | grep -c _next || true")
            rows.add(on_host(counts))
        host.check_output("systemctl stop test-sampler")
        yield Moved(variables, host.check_output("basename $(readlink /opt/throat/current)"), seen, busy, quiet, again, rows, visitors)


def test_move_to_native_and_back_is_noticed_by_nobody(moved):
    assert moved.seen == {"container to native": (moved.release, [0, 0], "0"), "native to container": (moved.release, [3, 3], "0")}
    # (Of containers the last test sees that there is nothing left to do.)
    assert moved.again == 0 and len(moved.rows) == 1
    for title, busy in moved.busy.items():
        print(moved.visitors.table(title, moved.quiet, busy))
        # The new one serves before the old one is told to stop, so that nobody waits, unless this machine itself is slow: no worker answers for a file.
        machine = moved.visitors.longest("bundle of a page that is open", busy)
        for kind in {visit.kind for visit in busy}:
            assert moved.visitors.longest(kind, busy) <= max(moved.visitors.longest(kind, moved.quiet), machine) + 2, (title, kind)
    assert moved.visitors.failed() == [] and moved.visitors.tabs_are_open() and len(moved.visitors.visits) > 500


def test_no_secret_is_to_be_seen(moved, host, secrets):
    host.check_output("docker history --no-trunc $(cat /opt/throat/current/.image) >> /root/sample; cat /etc/systemd/system/throat* >> /root/sample; journalctl >> /root/sample")
    host.check_output("docker run --rm --entrypoint tar $(cat /opt/throat/current/.image) --create --ignore-failed-read /throat /opt /etc 2>/dev/null >> /root/sample || true")
    second = "docker inspect $(docker ps --quiet); cat /proc/*/cmdline /etc/systemd/system/throat*; journalctl"
    found = subprocess.run(["docker", "exec", HOSTS[1], "bash", "-c", second], check=True, capture_output=True, text=True, errors="replace").stdout
    seen = host.check_output("wc -c < /root/sample; grep -a -c THROAT_DOOR /root/sample; grep -a -c 'migration\\|site_state\\|throat_prod' /root/sample").split()
    assert int(seen[0]) > 1_000_000 and int(seen[1]) > 10 and int(seen[2]) > 0
    for name, secret in secrets.items():
        assert host.run(f"grep -a -F -c {secret} /root/sample").stdout.strip() == "0" and secret not in found, name
    host.check_output("rm /root/sample")


def test_as_many_images_are_kept_as_releases(moved, host, serving):
    """After all these deploys, the last one of what the host has built."""
    kept = host.check_output("docker image ls --format '{{.Tag}}' --filter 'reference=throat:*'").split()
    assert len(kept) <= 3 and serving() in kept


def test_move_that_fails_leaves_the_workers_where_they_were(moved, run_site, host, serving, workers):
    """The other runtime cannot start: its units go, and those from before serve on."""
    before = serving()
    broken = [{**worker, "environment": {"SITE_TRUSTED_PROXY_COUNT": "two"}} if worker["name"] == "gevent" else worker for worker in workers]
    run = run_site({**moved.variables, **NATIVE, "throat_gunicorn_workers": broken}, playbook=DEPLOY, check=False)
    assert run.returncode != 0 and serving() == before
    assert running() == [3, 3]
    # Nor is there anything left to do of the moves before.
    assert run_site(moved.variables, playbook=DEPLOY).changed == 0
    assert not host.run("ls /etc/systemd/system/*~").stdout
