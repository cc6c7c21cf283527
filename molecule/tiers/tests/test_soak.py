"""An hour under load without an alert, and what it costs to watch. SOAK_MINUTES says how long it is."""

import os
import shlex
import time

import pytest
from test_metrics import prometheus, told
from test_tiers import APP, DB, on
from test_troubles import alerts, altered
from visitors import Visitors

MINUTES = int(os.environ.get("SOAK_MINUTES", "60"))
# The machine is shared with other tests; everything else is as a site has it.
MACHINE = {"load": 1000, "memory_percent": 99, "disk_percent": 96}
CONFIG = "/etc/prometheus/throat.yml"
EXPORTERS = "prometheus-*-exporter.service mtail.service"
LOOKS = "throat-metrics.service"
SERVING = "throat-sync.service throat-gevent.service throat-socketio.service nginx.service pgbouncer.service redis-server.service postgresql@*-main.service"


def used(units: str) -> float:
    """Seconds of CPU that services have had on both hosts since they were started."""
    ask = f"systemctl show --property=CPUUsageNSec --value {shlex.join(units.split())} | grep '^[0-9]'"
    return sum(int(value) for host in (APP, DB) for value in on(host, ask).stdout.split()) / 1e9


@pytest.fixture
def limits_of_a_shared_machine():
    # Asked as often as by default.
    with altered(MACHINE, CONFIG, "s/_interval: 5s/_interval: 30s/"):
        yield


@pytest.mark.campaign
def test_soak_of_an_hour_under_load_raises_no_alert(urls, pause, limits_of_a_shared_machine):
    deadline = time.monotonic() + 150
    while alerts() or told():
        assert time.monotonic() < deadline, (alerts(), told())
        time.sleep(2)
    visitors, fired, pending = Visitors(urls, pause), set(), set()
    before = [used(units) for units in (EXPORTERS, LOOKS, SERVING)]
    try:
        end = time.monotonic() + MINUTES * 60
        while time.monotonic() < end:
            time.sleep(10)
            fired |= alerts("firing")
            pending |= alerts("pending")
            assert not fired, fired
        open_tabs = visitors.tabs_are_open()
    finally:
        visitors.stop()
    exporters, looks, serving = (used(units) - already for units, already in zip((EXPORTERS, LOOKS, SERVING), before))
    # Prometheus remembers what came and went between two looks.
    remembered = prometheus(f'query?query=count_over_time(ALERTS%7Balertstate%3D%22firing%22%7D%5B{MINUTES}m%5D)')["result"]
    failed = visitors.failed()
    print(f"{MINUTES} min: {len(visitors.visits)} requests, {len(failed)} failed {failed[:5]}, tabs open: {open_tabs}; firing: none; pending for a while: {sorted(pending) or 'none'}")
    print(f"CPU of what serves {serving:.0f} s, of the exporters {exporters:.1f} s ({exporters / serving:.1%}), of two hosts' looks at themselves {looks:.0f} s ({looks / serving:.1%})")
    assert not remembered and not failed and open_tabs
