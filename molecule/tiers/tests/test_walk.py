"""A site that lives: one inventory after the other, and runs that die, while people use it."""

import os
import random
import signal
import subprocess
import threading

import pytest
import yaml
from conftest import ROOT
from test_tiers import APP, DB, on

STEPS = [pytest.param(4, id="4"), pytest.param(20, id="20", marks=pytest.mark.campaign)]


@pytest.fixture
def pause() -> float:
    return 0.4


@pytest.fixture
def draw(scenario, workers, release):
    """Call it with a source of chance for an inventory that an operator might have: its description, and variables for hosts.yml."""
    renamed = [{**worker, "name": {"gevent": "async"}.get(worker["name"], worker["name"])} for worker in workers]
    doubled = [*workers, {"name": "second-sync", "class": "sync", "processes": 1}]
    choices = {
        "pooler": {"beside the application": {"pgbouncer": APP}, "beside the database": {"pgbouncer": DB}, "none": {"throat_database_pooling": "peewee"}},
        "Redis": {"beside the application": {"redis": APP}, "beside the database": {"redis": DB}},
        "workers": {"as ever": workers, "one renamed": renamed, "one more": doubled},
        "Redis' password": {"first": "walk-1", "second": "walk+2/="},
        "PostgreSQL": {"as ever": {}, "a setting that needs a restart": {"max_worker_processes": "9"}},
        "release": {"first": release({"app/views.py": "\n# first\n"}, "first"), "second": release({"app/views.py": "\n# second\n"}, "second")},
    }
    base = yaml.safe_load((scenario / "inventory/hosts.yml").read_text())

    def pick(chance: random.Random) -> tuple[dict[str, str], dict]:
        chosen = {name: chance.choice(list(options)) for name, options in choices.items()}
        places = {"postgres": DB, "throat_gunicorn": APP, "nginx": APP, **choices["pooler"][chosen["pooler"]], **choices["Redis"][chosen["Redis"]]}
        pooling = places.pop("throat_database_pooling", "pgbouncer")
        # Of the hosts: variables of a group would lose to the group_vars of the tests.
        variables = {
            "throat_secrets_dir": str(scenario / "inventory/.secrets"),
            "throat_database_pooling": pooling,
            "throat_gunicorn_workers": choices["workers"][chosen["workers"]],
            "postgres_settings": choices["PostgreSQL"][chosen["PostgreSQL"]],
            "throat_redis_password": choices["Redis' password"][chosen["Redis' password"]],
            "throat_gunicorn_source": choices["release"][chosen["release"]],
        }
        site = {
            "hosts": {name: {**host, **variables} for name, host in base["throat"]["hosts"].items()},
            "children": {group: {"hosts": {host: None}} for group, host in places.items()},
        }
        return chosen, {"throat": site}

    return pick


# Where the walk has ended.
WALKED = {}
# Files and listeners of the stack; without what is random on each host, what names a moment, and exporters, which stay where they have been.
STATE = r"""
cd /etc; find throat nginx pgbouncer redis postgresql systemd/system tmpfiles.d sysctl.d throat-firewall.nft -type f -not -name '*.pem' -not -name '*.operator' \
  | sort | while read -r file; do echo "$file $(sed 's/#[0-9a-f]\{64\}//g' "$file" | sha256sum)"; done
systemctl list-unit-files --no-legend --no-pager | awk '{print $1, $2}' | grep -E 'throat|nginx|redis|pgbouncer|postgresql' | grep -v ^prometheus-
ss -Hltn | awk '{print $4}' | sort -u
readlink /opt/throat/current; nft list table inet throat 2>/dev/null
runuser -u postgres -- psql -Atc "SELECT rolname, rolsuper, rolconfig FROM pg_authid WHERE rolname !~ '^(pg_|prometheus$)'" -c "SELECT datname, datacl FROM pg_database ORDER BY 1" -c "SELECT name, setting FROM pg_settings WHERE source = 'configuration file' ORDER BY 1" 2>/dev/null
true
"""


def state() -> dict[str, list[str]]:
    """What both hosts are, in lines."""
    return {host: subprocess.run(["docker", "exec", host, "bash", "-c", STATE], check=True, capture_output=True, text=True).stdout.splitlines() for host in (APP, DB)}


@pytest.mark.parametrize("steps", STEPS)
def test_each_inventory_follows_the_other_and_nobody_notices(run_site, scenario, draw, visitors, tmp_path, steps):
    # The same walk in each run of the tests, another one in each campaign.
    seed = int(os.environ.get("TEST_SEED") or (359817 if steps == 4 else random.randrange(10**6)))
    print(f"TEST_SEED={seed}")
    chance = random.Random(seed)
    directory = tmp_path / "inventory"
    directory.mkdir()
    (directory / "group_vars").symlink_to(ROOT / "inventories/test/group_vars")
    for step in range(steps):
        chosen, inventory = draw(chance)
        (directory / "hosts.yml").write_text(yaml.safe_dump(inventory))
        seconds = chance.uniform(3, 30) if chance.random() < 1 / 3 else 0
        print(f"step {step + 1}: {', '.join(f'{name} {option}' for name, option in chosen.items())}{f'; killed after {seconds:.0f} s' if seconds else ''}", flush=True)
        if seconds:
            run = subprocess.Popen(["ansible-playbook", "-i", directory, "playbooks/site.yml"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
            timer = threading.Timer(seconds, os.killpg, (run.pid, signal.SIGKILL))
            timer.start()
            run.wait()
            timer.cancel()
        run_site(inventory=directory)
        # What was drawn is what runs.
        running = on(APP, "systemctl list-units --no-legend --plain --state=active 'throat-*.service' | cut -d' ' -f1; tail -n 1 /opt/throat/current/app/views.py").stdout.splitlines()
        workers = next(iter(inventory["throat"]["hosts"].values()))["throat_gunicorn_workers"]
        assert running == sorted(f"throat-{name}.service" for name in ["firewall", "follow-redis", *(worker["name"] for worker in workers)]) + [f"# {chosen['release']}"]
        again = run_site(inventory=directory)
        assert again.changed == 0, again.output[-4000:]
        assert visitors.failed() == [], [visit for visit in visitors.visits if visit.failure]
    assert visitors.tabs_are_open()
    WALKED.update(inventory=directory, state=state())


@pytest.mark.campaign
def test_site_that_has_lived_is_as_a_fresh_one_of_its_last_inventory(run_site):
    subprocess.run(["docker", "rm", "--force", "--volumes", APP, DB], check=True, capture_output=True)
    for playbook in ("molecule/shared/create.yml", "molecule/tiers/prepare.yml", "playbooks/site.yml"):
        run_site(inventory=WALKED["inventory"], playbook=playbook)
    assert state() == WALKED["state"]


def test_tests_that_follow_find_the_inventory_as_ever(run_site):
    run_site()
    assert run_site().changed == 0
