"""How a site is, as one HTML page: the topology drawn, what is wrong, and the numbers. It asks for nothing else, and reads on a phone as on a desk."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ansible_collections.throat.stack.plugins.plugin_utils.status import LEVELS, TIERS, cells, headline, numbers, together

Report = Mapping[str, Any]
# Rows of the drawing: who is asked by the row above, with a pooler and without.
ROWS = {True: (("nginx",), ("throat_gunicorn",), ("pgbouncer", "redis"), ("postgres",)), False: (("nginx",), ("throat_gunicorn",), ("postgres", "redis"))}
BOX, GAP, LINE, MARGIN = 176, 14, 17, 8
MARKS = {"ok": "✓", "warning": "!", "broken": "✗"}

STYLE = """
:root{color-scheme:light dark;--ground:#f6f7f9;--card:#fff;--ink:#1b2430;--soft:#5d6b7c;--line:#d6dce4;
--ok:#1a7f4b;--warning:#a15c00;--broken:#c62a2f;--ok-bg:#e7f5ed;--warning-bg:#fff1d9;--broken-bg:#fde5e5}
@media(prefers-color-scheme:dark){:root{--ground:#12161c;--card:#1b2129;--ink:#e6eaf0;--soft:#98a5b5;--line:#343d49;
--ok:#5fcf94;--warning:#f2b04c;--broken:#ff7b7b;--ok-bg:#17301f;--warning-bg:#3a2a0d;--broken-bg:#431a1c}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1180px;margin:0 auto;padding:16px}
header{display:flex;flex-wrap:wrap;gap:4px 16px;align-items:baseline;border-left:6px solid;padding:10px 14px;border-radius:6px;margin-bottom:16px}
h1{font-size:1.25rem;margin:0;overflow-wrap:anywhere}
h2{font-size:.95rem;margin:24px 0 8px;color:var(--soft);font-weight:600}
header strong{font-size:1.05rem}
header span{color:var(--soft);margin-left:auto}
.ok{color:var(--ok)}.warning{color:var(--warning)}.broken{color:var(--broken)}
header.ok{background:var(--ok-bg);border-color:var(--ok)}
header.warning{background:var(--warning-bg);border-color:var(--warning)}
header.broken{background:var(--broken-bg);border-color:var(--broken)}
header h1{color:var(--ink)}
.drawing{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px;text-align:center}
svg{max-width:100%;height:auto}
.tall{display:none}
@media(max-width:720px){.wide{display:none}.tall{display:inline}main{padding:10px}header span{margin-left:0}}
svg text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--ink)}
svg .name{font-weight:600;font-size:13px}
svg .small{fill:var(--soft);font-size:11px}
svg .edge{fill:none;stroke:var(--soft);stroke-width:1.3;opacity:.55}
svg .edge.broken{stroke:var(--broken);stroke-width:2;stroke-dasharray:5 4;opacity:1}
svg rect.ok{fill:var(--ok-bg);stroke:var(--ok)}
svg rect.warning{fill:var(--warning-bg);stroke:var(--warning);stroke-width:2}
svg rect.broken{fill:var(--broken-bg);stroke:var(--broken);stroke-width:2}
svg rect.visitors{fill:var(--card);stroke:var(--line)}
svg text.ok{fill:var(--ok)}svg text.warning{fill:var(--warning);font-weight:600}svg text.broken{fill:var(--broken);font-weight:600}
svg .track{fill:var(--line)}
svg .load.ok{fill:var(--ok);stroke:none}svg .load.warning{fill:var(--warning);stroke:none}svg .load.broken{fill:var(--broken);stroke:none}
ul{list-style:none;margin:0;padding:0}
li{background:var(--card);border:1px solid var(--line);border-left:5px solid;border-radius:6px;padding:9px 12px;margin-bottom:8px}
li.broken{border-left-color:var(--broken)}li.warning{border-left-color:var(--warning)}
li b{color:var(--ink)}
li p{margin:2px 0;color:var(--ink)}
li .soft{color:var(--soft)}
code{display:block;background:var(--ground);border-radius:4px;padding:5px 8px;margin-top:5px;font:13px/1.4 ui-monospace,Menlo,Consolas,monospace;
color:var(--ink);white-space:pre-wrap;overflow-wrap:anywhere}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:8px}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:6px 10px;white-space:nowrap;border-top:1px solid var(--line)}
tr:first-child th{border-top:0;color:var(--soft);font-weight:600}
td:first-child,tr:first-child th:first-child{position:sticky;left:0;background:var(--card);font-weight:600}
/* On a phone each host is a few lines of what it has, not a row that is mostly empty or out of sight. */
@media(max-width:720px){.cards tr:first-child,.cards td:empty{display:none}.cards tr{display:block;padding:7px 10px;border-top:1px solid var(--line)}
.cards tr:nth-child(2){border-top:0}.cards td{display:inline-block;padding:1px 12px 1px 0;border:0;white-space:normal}
.cards td:first-child{display:block;position:static}.cards td+td::before{content:attr(data-name) " ";color:var(--soft)}}
details{margin-top:16px}summary{cursor:pointer;color:var(--soft)}
details table{margin-top:8px}
""".strip()


@dataclasses.dataclass(frozen=True)
class Box:
    """What serves on a host, to be drawn; lines: (text, level) of what it says."""

    host: str
    role: str
    level: str
    lines: tuple[tuple[str, str], ...]
    # Whether whoever asks it has a reason to complain.
    is_down: bool = False
    # How busy the host is, from 0 to 1, and how that is; None where it does not answer.
    load: float | None = None
    load_level: str = "ok"

    @property
    def height(self) -> int:
        return 46 + LINE * len(self.lines) + (10 if self.load is not None else 0)


def levels(report: Report, host: str, tier: str) -> str:
    """Return the worst level of what is said of a role on a host, or of the whole host where it does not answer."""
    found = [finding["level"] for finding in report["findings"] if finding["host"] == host and (finding["tier"] == tier or finding["subject"] == "host")]
    return min(found, key=LEVELS.index, default="ok")


def following(report: Report) -> set[tuple[str, str]]:
    """Return the (host, subject) of what follows from something else that is broken."""
    said = (line.partition(":")[0] for finding in report["findings"] for line in finding["so"])
    return {(host, subject) for subject, _on, host in (name.rpartition(" on ") for name in said)}


def boxes(report: Report) -> list[list[Box]]:
    """Return the boxes of each row of the drawing."""
    suffering, found = following(report), []
    for roles in ROWS[any("pgbouncer" in part["roles"] for part in report["hosts"].values())]:
        row = []
        for role in roles:
            for host, part in report["hosts"].items():
                if role not in part["roles"]:
                    continue
                level = levels(report, host, role)
                lines = [("does not answer", "broken")]
                load, load_level = None, "ok"
                if part["probe"]:
                    lines = list(box_lines(report, host, role, suffering))
                    load = min(1.0, part["probe"]["load"]["five"] / part["probe"]["load"]["cores"])
                    load_level = levels(report, host, "")
                # Who cannot do his work because of others is no cause, and no comfort either.
                own = [level, *(line_level for _text, line_level in lines)]
                is_down = "broken" in own
                if part["probe"]:
                    lines.append(host_line(report, host))
                row.append(Box(host, role, min([*own, load_level], key=LEVELS.index), tuple(lines), is_down, load, load_level))
        if row:
            found.append(row)
    return found


def box_lines(report: Report, host: str, role: str, suffering: set[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    """Yield (text, level) of what a box says of its role."""
    probe, known = report["hosts"][host]["probe"], numbers(report, host)
    said = {finding["subject"]: finding for finding in report["findings"] if finding["host"] == host}

    def level(*subjects: str) -> str:
        worst = min((said[subject]["level"] for subject in subjects if subject in said), key=LEVELS.index, default="ok")
        return "broken" if any((host, subject) in suffering for subject in subjects) else worst

    if role == "throat_gunicorn":
        for name in report["hosts"][host]["workers"]:
            answer = probe["workers"].get(name)
            text = "stopped" if answer is None else f"{answer['status']} in {answer['seconds']:.2f} s" if answer["status"] else "hangs"
            yield f"{name}: {text}", level(f"worker {name}")
    elif role == "nginx":
        yield f"{known['5xx/h'].replace('/', ' of ')} were 5xx" if known["5xx/h"] else "no log", level("errors", "nginx")
        if level("way to the workers") != "ok":
            yield "reaches not all classes", level("way to the workers")
    elif role == "pgbouncer":
        yield f"{known['pool'].replace('/', ' of ')} connections" if known["pool"] else "no answer", level(f"pool {report['site']}", "PgBouncer")
    elif role == "postgres":
        yield f"{known['db'].replace('/', ' of ')} connections" if known["db"] else "no answer", level("connections", "PostgreSQL", "transaction")
    else:
        yield known["redis"].replace("/", " of ").replace("M", " MiB") or ("answers" if probe["redis"]["answers"] else "no answer"), level("Redis")


def host_line(report: Report, host: str) -> tuple[str, str]:
    """Return (text, level) of what a box says of its host: what is wrong there, or how full it is."""
    wrong = [finding["subject"] for finding in report["findings"] if finding["host"] == host and not finding["tier"] and finding["level"] != "ok"]
    known = numbers(report, host)
    return ", ".join(wrong) or f"disk {known['disk']} · memory {known['memory']}", levels(report, host, "")


def shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def drawn_box(box: Box, x: float, y: float) -> str:
    parts = [
        f'<rect class="{box.level}" x="{x}" y="{y}" width="{BOX}" height="{box.height}" rx="7"/>',
        f'<text class="name" x="{x + 10}" y="{y + 19}">{escape(TIERS[box.role])}</text>',
        f'<text class="{box.level}" x="{x + BOX - 20}" y="{y + 19}">{MARKS[box.level]}</text>',
        f'<text class="small" x="{x + 10}" y="{y + 35}">{escape(shortened(box.host, 26))}</text>',
    ]
    for number, (text, level) in enumerate(box.lines):
        kind = "small" if level == "ok" else level
        parts.append(f'<text class="{kind}" x="{x + 10}" y="{y + 53 + LINE * number}">{escape(shortened(text, 26 if level == "ok" else 23))}</text>')
    if box.load is not None:
        top = y + box.height - 12
        parts.append(f'<rect class="track" x="{x + 10}" y="{top}" width="{BOX - 20}" height="4" rx="2"/>')
        parts.append(f'<rect class="load {box.load_level}" x="{x + 10}" y="{top}" width="{max(2, round((BOX - 20) * box.load))}" height="4" rx="2"/>')
    return f"<g><title>{escape(f'{TIERS[box.role]} on {box.host}')}</title>{''.join(parts)}</g>"


def drawing(report: Report, is_tall: bool) -> str:
    """Return the topology as SVG: from left to right, or from top to bottom and two boxes wide."""
    rows = boxes(report)
    gap = 30 if is_tall else 62
    places: dict[tuple[str, str], tuple[float, float, Box]] = {}
    visitors = 30.0
    if is_tall:
        width, at = 2 * BOX + GAP + 2 * MARGIN, MARGIN + visitors + gap
        for row in rows:
            for first in range(0, len(row), 2):
                pair = row[first : first + 2]
                x = (width - len(pair) * BOX - (len(pair) - 1) * GAP) / 2
                for number, box in enumerate(pair):
                    places[box.role, box.host] = (x + number * (BOX + GAP), at, box)
                at += max(box.height for box in pair) + (GAP if first + 2 < len(row) else gap)
        height = at - gap + MARGIN
        source = (width / 2, MARGIN + visitors)
    else:
        height = max((sum(box.height for box in row) + GAP * (len(row) - 1) for row in rows), default=visitors) + 2 * MARGIN
        at = MARGIN + 74 + gap
        for row in rows:
            y = (height - sum(box.height for box in row) - GAP * (len(row) - 1)) / 2
            for box in row:
                places[box.role, box.host] = (at, y, box)
                y += box.height + GAP
            at += BOX + gap
        width = at - gap + MARGIN
        source = (MARGIN + 74, height / 2)
    x, y = (width / 2 - 37, MARGIN) if is_tall else (MARGIN, height / 2 - visitors / 2)
    parts = [edge(source, place, is_tall) for (role, _host), place in places.items() if role == "nginx"]
    for host, part in report["hosts"].items():
        for role, other, asked in part["asks"]:
            if (role, host) in places and (asked, other) in places:
                from_x, from_y, box = places[role, host]
                start = (from_x + BOX / 2, from_y + box.height) if is_tall else (from_x + BOX, from_y + box.height / 2)
                parts.append(edge(start, places[asked, other], is_tall))
    parts.append(f'<rect class="visitors" x="{x}" y="{y}" width="74" height="{visitors}" rx="15"/><text x="{x + 15}" y="{y + 19}">visitors</text>')
    parts += [drawn_box(box, left, top) for left, top, box in places.values()]
    label = "Who asks whom, and how each is"
    kind = "tall" if is_tall else "wide"
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    return f'<svg class="{kind}" role="img" aria-label="{label}" xmlns="http://www.w3.org/2000/svg" {size}>{"".join(parts)}</svg>'


def edge(start: tuple[float, float], place: tuple[float, float, Box], is_tall: bool) -> str:
    """Return a line to a box, which is broken where that is."""
    x, y = start
    left, top, box = place
    end_x, end_y = (left + BOX / 2, top) if is_tall else (left, top + box.height / 2)
    middle = (y + end_y) / 2 if is_tall else (x + end_x) / 2
    way = f"{x:.0f} {middle:.0f} {end_x:.0f} {middle:.0f}" if is_tall else f"{middle:.0f} {y:.0f} {middle:.0f} {end_y:.0f}"
    kind = " broken" if box.is_down else ""
    return f'<path class="edge{kind}" d="M{x:.0f} {y:.0f}C{way} {end_x:.0f} {end_y:.0f}"/>'


def finding_item(finding: Mapping[str, Any]) -> str:
    so = f'<p class="soft">and so: {escape("; ".join(finding["so"]))}</p>' if finding["so"] else ""
    return (
        f'<li class="{finding["level"]}"><p><span class="{finding["level"]}">{MARKS[finding["level"]]} {finding["level"]}</span> '
        f'<b>{escape(finding["subject"])}</b> <span class="soft">on {escape(finding["host"])}</span></p>'
        f'<p>{escape(finding["seen"])} <span class="soft">(should be: {escape(finding["should"])})</span></p>{so}'
        f'<code>{escape(finding["command"])}</code></li>'
    )


def rows_of(rows: Sequence[Sequence[str]]) -> str:
    first, *others = rows
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in first) + "</tr>"]
    named = [[("" if cell == "no answer" else name, cell) for name, cell in zip(first, row)] for row in others]
    cells_of = [[f'<td data-name="{escape(name)}">{escape(cell)}</td>' for name, cell in row] for row in named]
    return "".join(lines + [f"<tr>{''.join(made)}</tr>" for made in cells_of])


def status_page(report: Report) -> str:
    """Return the page; it holds what the report holds, which has no secret."""
    wrong = together([finding for finding in report["findings"] if finding["level"] != "ok"])
    well = [(finding["host"], finding["subject"], finding["seen"]) for finding in report["findings"] if finding["level"] == "ok"]
    when = report["asked"].replace("T", " ").replace("Z", " UTC")
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">',
        # Nothing is asked for, not even the icon that browsers want.
        '<link rel="icon" href="data:,"><meta name="robots" content="noindex">',
        f"<title>{MARKS[report['level']]} {escape(report['url'])}: {escape(headline(report))}</title><style>{STYLE}</style></head><body><main>",
        f'<header class="{report["level"]}"><h1>{escape(report["url"])}</h1><strong>{escape(headline(report))}</strong><span>{escape(when)}</span></header>',
        f'<div class="drawing">{drawing(report, False)}{drawing(report, True)}</div>',
    ]
    if wrong:
        parts.append(f"<h2>What is wrong</h2><ul>{''.join(map(finding_item, wrong))}</ul>")
    parts.append(f'<h2>Numbers</h2><div class="scroll"><table class="cards">{rows_of(cells(report))}</table></div>')
    rows = rows_of([("host", "what", "is"), *well])
    parts.append(f'<details><summary>What is well ({len(well)})</summary><div class="scroll"><table>{rows}</table></div></details>')
    return "".join([*parts, "</main></body></html>\n"])
