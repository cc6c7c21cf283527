"""People who use the site while a member is gone, or another one leads."""

import time

import pytest
from cluster import MEMBERS, SITE, on, rows, wait_until_all_are_well
from visitors import Visitors

FORGET = """
import redis, yaml
server = redis.from_url(yaml.safe_load(open("/etc/throat/config.yaml"))["app"]["redis_url"])
for key in server.scan_iter("LIMITER*"):
    server.delete(key)
"""


@pytest.fixture
def flush_limits():
    """As that of all scenarios; of whoever leads, as workers ask."""

    def flush() -> None:
        on(SITE, "python3 -", stdin=FORGET)

    flush()
    return flush


@pytest.fixture
def also() -> dict:
    """What visitors ask beyond what they always do (visitors.py)."""
    return {}


@pytest.fixture
def there(urls, flush_limits, pause, also):
    """People who use the site; in the end each post that was answered is on every member, once, and one that was not at most once."""
    wait_until_all_are_well()
    visitors = Visitors(urls, pause, also)
    try:
        yield visitors
    finally:
        visitors.stop()
    wait_until_all_are_well(180)
    for host in MEMBERS:
        deadline = time.monotonic() + 20
        while not visitors.written <= set(rows(host, visitors)) and time.monotonic() < deadline:
            time.sleep(0.5)
        found = rows(host, visitors)
        assert len(found) == len(set(found)) and visitors.written <= set(found) <= visitors.written | visitors.lost, host
