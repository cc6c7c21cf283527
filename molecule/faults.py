"""What the fault campaigns of all scenarios share: a fault, what visitors notice of it, and the tables of docs/faults.md."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
import time

from visitors import Visitors

# (A scenario may have a conftest of its own.)
PAGE = pathlib.Path(__file__).parent.parent / "docs/faults.md"
HEAD = "| fault | visitors: failed of all | who | for | longest answer | lost | status | back |\n|---|---|---|---|---|---|---|---|\n"
# The one that asks Redis, for its rate limit; below that.
FRONT = {"front page": ("GET", "/all/new", 1.3)}


@dataclasses.dataclass
class Fault:
    """What is done to the host, for how many seconds it stays so, and by which hand it is mended; empty: by none."""

    name: str
    begin: str
    lasts: int = 0
    end: str = ""
    # What brings it back, in the words of the table, once its cause is gone.
    hand: str = "itself"
    # On whose first host; what begins with "docker" is done on the machine that the hosts run on.
    group: str = "throat"


def is_well(visitors, seconds: float) -> bool:
    """Whether everybody was answered for so long."""
    since = time.monotonic()
    time.sleep(seconds)
    visits = visitors.since(since)
    return len({visit.kind for visit in visits}) == 6 and not any(visit.failure for visit in visits)


def broken(run_site, limits: dict[str, int], directory: pathlib.Path) -> str:
    """What the status says is broken by these limits, in words, beside warnings; its report is left in the directory."""
    file = directory / "status.json"
    run_site({"throat_status_limits": limits, "status_file": str(file)}, check=False, playbook="playbooks/status.yml")
    return ", ".join(dict.fromkeys(finding["subject"] for finding in json.loads(file.read_text())["findings"] if finding["level"] == "broken")) or "all is well"


def row(fault, visitors, on_host, ask, run_site) -> str:
    """Do it, and return the table's line; ask() says what the status has for it."""

    def do(command: str) -> None:
        # The machine that hosts run on pulls the plug.
        subprocess.run(command.split(), check=True, capture_output=True) if command.startswith("docker ") else on_host(command, group=fault.group)

    began = time.monotonic()
    do(fault.begin)
    said = "over before it can be asked"
    try:
        if fault.lasts:
            time.sleep(8)
            said = ask()
            time.sleep(max(0, began + fault.lasts - time.monotonic()))
    finally:
        if fault.end:
            do(fault.end)
    ended, hand = time.monotonic(), fault.hand
    while not is_well(visitors, 4):
        if time.monotonic() > ended + 120 and hand == fault.hand:
            hand = "**site.yml**"
            run_site()
    if not visitors.tabs_are_open(60):
        hand += ", **but for websockets**"
    visits = visitors.since(began - 1)
    failed = [visit for visit in visits if visit.failure]
    # With the answers that each kind had in the place of a page.
    answers = {visit.kind: sorted({other.failure for other in failed if other.kind == visit.kind}) for visit in failed}
    who = ", ".join(f"{kind} ({', '.join(said)})" for kind, said in answers.items()) or "nobody"
    lasted = max((visit.began + visit.seconds for visit in failed), default=began) - min((visit.began for visit in failed), default=began)
    written = set(visitors.written)
    query = f"SELECT value FROM user_metadata WHERE value LIKE '{visitors.name}-%'"
    rows = on_host(f'runuser -u postgres -- psql -d throat -Atqc "{query}"', group="postgres").split()
    assert len(rows) == len(set(rows))
    lost = written - set(rows)
    longest = max(visit.seconds for visit in visits)
    print(line := f"| {fault.name} | {len(failed)} of {len(visits)} | {who} | {lasted:.0f} s | {longest:.1f} s | {len(lost)} | {said} | {hand} |", flush=True)
    return line


def campaign(faults, heading, urls, pause, on_host, ask, run_site) -> None:
    """Do one after the other, and write the table below a heading of the page."""
    visitors, lines = Visitors(urls, pause, FRONT), []
    try:
        assert is_well(visitors, 5)
        for fault in faults:
            lines.append(row(fault, visitors, on_host, ask, run_site))
    finally:
        visitors.stop()
        write(heading, lines)
    assert all("| 0 |" in line and "**" not in line for line in lines)


def write(heading: str, lines: list[str], head: str = HEAD) -> None:
    """Put a table in the place of the one below a heading, which has the same head; other tables of the page stay."""
    before, title, after = PAGE.read_text().partition(f"\n## {heading}\n")
    said, _head, table = after.partition(head)
    _old, rule, following = table.partition("\n## ")
    PAGE.write_text(before + title + said + head + "".join(f"{line}\n" for line in lines) + rule + following)
