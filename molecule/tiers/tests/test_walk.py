"""A site that lives: one inventory after the other, and runs that die, while people use it."""

import os
import random
import signal
import subprocess
import threading

import pytest
import yaml
from conftest import ROOT

APP, DB = "throat-stack-app", "throat-stack-db"
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
        "release": {"first": release({"app/views.py": "\n# first\n"}, "first"), "second": release({"app/views.py": "\n# second\n"}, "second")},
    }
    base = yaml.safe_load((scenario / "inventory/hosts.yml").read_text())

    def pick(chance: random.Random) -> tuple[dict[str, str], dict]:
        chosen = {name: chance.choice(list(options)) for name, options in choices.items()}
        places = {"postgres": DB, "throat_gunicorn": APP, "nginx": APP, **choices["pooler"][chosen["pooler"]], **choices["Redis"][chosen["Redis"]]}
        pooling = places.pop("throat_database_pooling", "pgbouncer")
        site = {
            "hosts": {name: {**host, "throat_secrets_dir": str(scenario / "inventory/.secrets")} for name, host in base["throat"]["hosts"].items()},
            "children": {group: {"hosts": {host: None}} for group, host in places.items()},
            "vars": {
                "throat_database_pooling": pooling,
                "throat_gunicorn_workers": choices["workers"][chosen["workers"]],
                "throat_redis_password": choices["Redis' password"][chosen["Redis' password"]],
                "throat_gunicorn_source": choices["release"][chosen["release"]],
            },
        }
        return chosen, {"throat": site}

    return pick


@pytest.mark.parametrize("steps", STEPS)
def test_each_inventory_follows_the_other_and_nobody_notices(run_site, scenario, draw, visitors, tmp_path, steps):
    seed = int(os.environ.get("TEST_SEED") or random.randrange(10**6))
    print(f"TEST_SEED={seed}")
    chance = random.Random(seed)
    (tmp_path / "group_vars").symlink_to(ROOT / "inventories/test/group_vars")
    for step in range(steps):
        chosen, inventory = draw(chance)
        (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory))
        seconds = chance.uniform(3, 30) if chance.random() < 1 / 3 else 0
        print(f"step {step + 1}: {', '.join(f'{name} {option}' for name, option in chosen.items())}{f'; killed after {seconds:.0f} s' if seconds else ''}", flush=True)
        if seconds:
            run = subprocess.Popen(["ansible-playbook", "-i", tmp_path, "playbooks/site.yml"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
            timer = threading.Timer(seconds, os.killpg, (run.pid, signal.SIGKILL))
            timer.start()
            run.wait()
            timer.cancel()
        run_site(inventory=tmp_path)
        again = run_site(inventory=tmp_path)
        assert again.changed == 0, again.output[-4000:]
        assert visitors.failed() == [], [visit for visit in visitors.visits if visit.failure]
    assert visitors.tabs_are_open()
    # Back to where other tests begin.
    run_site()
