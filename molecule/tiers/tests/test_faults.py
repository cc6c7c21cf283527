"""The fault campaign on two hosts: what is between them is cut, and each of them restarts. Writes its table of docs/faults.md."""

import pytest
from faults import Fault, broken, campaign
from test_tiers import APP, DB
from test_troubles import LIMITS

TO, FROM = "ip saddr 10.213.0.11 tcp dport 5432 drop", "ip daddr 10.213.0.11 tcp sport 5432 drop"
CUT = (
    "nft add table inet faults; nft add chain inet faults in '{{ type filter hook input priority -10; }}'; nft add chain inet faults out '{{ type filter hook output priority -10; }}'; {}"
)
IN, OUT = f"nft add rule inet faults in {TO}", f"nft add rule inet faults out {FROM}"
MEND = "nft delete table inet faults"
LOGIN = "curl -ksS -o /dev/null -X POST -d username=admin -d password=wrong https://10.213.0.11:8449/login"
FLOOD = f"systemd-run --quiet --unit=flood sh -c 'for each in $(seq 20); do while true; do {LOGIN}; done & done; wait'"
FAULTS = [
    Fault("requests do not reach the database's host", CUT.format(IN), 60, MEND, "itself, once they do", group="postgres"),
    Fault("answers do not leave the database's host", CUT.format(OUT), 60, MEND, "itself, once they do", group="postgres"),
    Fault("the way to the database's host is cut", CUT.format(f"{IN}; {OUT}"), 60, MEND, "itself, once it is there", group="postgres"),
    Fault("the database's host restarts", f"docker restart --time 30 {DB}"),
    Fault("the application's host restarts", f"docker restart --time 30 {APP}"),
    Fault("the database's host freezes for a minute", f"docker pause {DB}", 60, f"docker unpause {DB}", "itself, once it goes on"),
    Fault("a flood of log-ins from one address, 20 at once", FLOOD, 40, "systemctl stop flood", group="postgres"),
]


@pytest.mark.campaign
def test_site_outlives_faults_between_its_hosts(urls, pause, on_host, run_site, tmp_path):
    campaign(FAULTS, "Two hosts", urls, pause, on_host, lambda: broken(run_site, LIMITS, tmp_path), run_site)
