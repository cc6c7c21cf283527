"""What the documentation says there is: links, make targets, playbooks, variables, and inventories that can be planned. No host, no network."""

import inspect
import json
import pathlib
import re
import subprocess

import pytest
import yaml
from ansible_collections.throat.stack.plugins.filter import stack
from ansible_collections.throat.stack.plugins.plugin_utils import plan

ROOT = pathlib.Path(__file__).parents[2]
# Of our own writing, with a table of contents each; the tables of variables are made from the specifications.
SUBJECTS = sorted(page for page in (ROOT / "docs").glob("*.md") if page.name not in ("variables.md", "how-it-works.md"))
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "molecule/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted(ROOT.glob("roles/*/README.md")),
]
OWNERS = ("site", *plan.ROLES)
VARIABLES = {name for owner in OWNERS for name in plan.options(owner)}
# Groups of the inventory, what a site of the configuration "test" is called on its host, and databases of a site that moves.
NOT_VARIABLES = {"throat_gunicorn", "throat_build", "throat_old", "throat_test", "throat_before_move", "throat_egress", "throat_restored"}
# What hosts tell Prometheus has names of its own.
METRICS = set(re.findall(r"\bthroat_\w+", (ROOT / "roles/throat_metrics/files/metrics.py").read_text() + (ROOT / "roles/throat_metrics/templates/etc/mtail/throat.mtail.j2").read_text()))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
# What the action plugin puts in the place of secrets that the first run makes.
SECRETS = dict.fromkeys(plan.SECRETS | plan.CLUSTER_SECRETS, "made-by-the-first-run")


def name_of(page):
    return str(page.relative_to(ROOT))


def blocks(page):
    """[(language, text)] of the code blocks of a page."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def prose(page):
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def code(page):
    """Everything on a page that is written as code, in the text and in blocks."""
    return [*re.findall(r"`([^`\n]+)`", prose(page)), *(text for _, text in blocks(page))]


def headings(page):
    """[(level, anchor)] as the usual viewers of Markdown name them."""
    found = re.findall(r"^(#+) (.+)$", prose(page), re.MULTILINE)
    return [(len(level), re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")) for level, text in found]


def all_yaml():
    return [(page, yaml.safe_load(text)) for page in PAGES for language, text in blocks(page) if language == "yaml"]


INVENTORIES = [(page, text) for page, text in all_yaml() if isinstance(text, dict) and "throat" in text]
PLAYS = [(page, text[0]) for page, text in all_yaml() if isinstance(text, list)]
PROD = yaml.safe_load((ROOT / "inventories/prod/hosts.yml").read_text())["throat"]["vars"]
# What goes for the examples of a page that show hosts and groups only.
SITES = {page: inventory["throat"]["vars"] for page, inventory in INVENTORIES if "vars" in inventory["throat"]}


def read(inventory, others):
    """(variables of all hosts, groups) of an inventory in YAML; others: what it is to be added to."""
    site = inventory["throat"]
    hosts, groups = dict(site.get("hosts") or {}), {"throat": []}
    for group, content in site["children"].items():
        hosts |= {host: {**hosts.get(host, {}), **(own or {})} for host, own in content["hosts"].items()}
        groups[group] = list(content["hosts"])
    groups["throat"] = list(hosts)
    return {host: {**others, **(site.get("vars") or {}), **own} for host, own in hosts.items()}, groups


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_every_role_has_a_page():
    assert {page.parent.name for page in PAGES if page.parent.parent.name == "roles"} == {path.name for path in (ROOT / "roles").iterdir()}


@pytest.mark.parametrize("page", SUBJECTS, ids=name_of)
def test_table_of_contents_names_each_heading(page):
    (title, *_), *rest = headings(page)
    assert title == 1
    assert re.findall(r"^- \[.+\]\(#(.+)\)$", prose(page), re.MULTILINE) == [anchor for level, anchor in rest if level == 2]


def test_readme_leads_to_each_page():
    assert {name_of(page) for page in [*SUBJECTS, *ROOT.glob("roles/*/README.md")]} <= set(re.findall(r"\]\(([^)#]+)", prose(ROOT / "README.md")))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", prose(page)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT.resolve()) and target.exists(), link
        assert not anchor or anchor in [found for _, found in headings(target)], link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_is_typed_is_there(page):
    for text in code(page):
        assert set(re.findall(r"\bmake ([a-z][a-z-]*)", text)) <= TARGETS
        for path in re.findall(r"(?<![\w/.])((?:playbooks|roles|molecule|inventories/(?:prod|test)|bin|tests)/[\w./-]*\w)", text):
            # Made by the operator.
            assert (ROOT / path).exists() or path.endswith(("/vault.yml", "/.secrets")), path
        for name in re.findall(r"\bthroat\.stack\.(\w+)", text):
            places = [f"playbooks/{name}.yml", f"roles/{name}", f"plugins/modules/{name}.py"]
            assert any((ROOT / place).exists() for place in places), name
        for inventory in re.findall(r"-i inventories/([\w-]+)", text):
            written = re.findall(r"save this as `inventories/([\w-]+)/hosts.yml`", "".join(other.read_text() for other in PAGES), re.IGNORECASE)
            assert (ROOT / "inventories" / inventory).is_dir() or inventory in written, inventory
        for scenario, _, part in re.findall(r"\bSCENARIO=([a-z]+)( TEST=([a-z]+))?", text):
            tests = "".join(path.read_text() for path in ROOT.glob(f"molecule/{scenario}/tests/test_*.py"))
            assert re.search(rf"^def test_\w*{part}", tests, re.MULTILINE), text


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_variables_are_specified(page):
    prefixes = "|".join((*plan.ROLES, "throat"))
    for text in code(page):
        for name in re.findall(rf"(?<![\w./$-])((?:{prefixes})_\w+)\b(?!\.yml)", text):
            assert name in VARIABLES | NOT_VARIABLES | METRICS, name


def test_blocks_are_of_a_kind_that_is_tested():
    assert {language for page in PAGES for language, _ in blocks(page)} == {"", "text", "yaml"}


@pytest.mark.parametrize(("page", "inventory"), INVENTORIES, ids=lambda part: name_of(part) if isinstance(part, pathlib.Path) else "")
def test_inventory_can_be_planned(page, inventory):
    # Where a page shows hosts and groups only, the rest is as in its other example, or in that of one host.
    made = plan.make(*read(inventory, {**({} if "vars" in inventory["throat"] else SITES.get(page, PROD)), **SECRETS}))
    assert made["refusals"] == [] and made["notes"] == []


def test_site_in_ten_lines():
    (text,) = [text for language, text in blocks(ROOT / "README.md") if language == "yaml"]
    assert len(text.splitlines()) == 10
    made = plan.make(*read(yaml.safe_load(text), SECRETS))
    assert set(made["hosts"]["throat1"]) == {"site", *plan.ROLES} - {"firewall", "throat_metrics", "monitoring", "etcd", "haproxy"}


@pytest.mark.parametrize(("page", "play"), PLAYS, ids=lambda part: name_of(part) if isinstance(part, pathlib.Path) else "")
def test_play_gives_a_role_what_it_needs(page, play):
    for entry in play["roles"]:
        role = entry["role"].removeprefix("throat.stack.")
        assert role == page.parent.name
        # A secret is somewhere else.
        given = {name: "a-long-secret-out-of-a-vault-0123456789" if "{{ vault_" in str(value) and isinstance(value, str) else value for name, value in entry["vars"].items()}
        assert plan.role_arguments(role, given, {}, "host1")[1] == []


def test_second_site_fits_beside_the_first():
    (inventory,) = [inventory for page, inventory in INVENTORIES if page.name == "two-sites.md"]
    variables, groups = read(inventory, SECRETS)
    own = plan.make(variables, groups)["hosts"]["throat1"]
    assert own["site"]["name"] == "throat_test" and own["redis"]["port"] == 6380
    # As the page says, with the headroom of each counting the other.
    given = yaml.safe_load((ROOT / "inventories/prod/hosts.yml").read_text())
    first = plan.make(*read(given, {**SECRETS, "throat_database_headroom": 30}))
    assert first["refusals"] == []
    assert "58 of 100" in first["budget"] and "58 of 100" in plan.make(variables, groups)["budget"]


def test_supported_versions_of_ansible_are_the_same_everywhere():
    oldest, *others = subprocess.run([ROOT / "bin/ensure-ansible"], check=True, capture_output=True, text=True).stdout.split()
    said = f"Your ansible-core must be {', '.join([oldest, *others[:-1]])} or {others[-1]}."
    assert said in (ROOT / "docs/first-site.md").read_text()
    for meta in ROOT.glob("roles/*/meta/main.yml"):
        assert yaml.safe_load(meta.read_text())["galaxy_info"]["min_ansible_version"] == oldest


def documented(kind, names):
    """What ansible-doc says of plugins of a kind, by name."""
    command = ["ansible-doc", "--json", "--type", kind, *(f"throat.stack.{name}" for name in sorted(names))]
    said = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    return {name.removeprefix("throat.stack."): content for name, content in said.items()}


@pytest.mark.parametrize(("kind", "directory"), [("module", "plugins/modules"), ("lookup", "plugins/lookup"), ("role", "roles")])
def test_ansible_doc_knows_every(kind, directory):
    names = {path.stem for path in (ROOT / directory).iterdir() if not path.name.startswith("_")}
    assert set(documented(kind, names)) == names


def test_ansible_doc_says_of_every_filter_what_its_function_takes():
    functions = stack.FilterModule().filters()
    pages = documented("filter", functions)
    assert set(pages) == set(functions) == {path.stem for path in (ROOT / "plugins/filter").glob("*.yml")}
    for name, function in functions.items():
        doc = pages[name]["doc"]
        first, *others = inspect.signature(function).parameters.values()
        assert doc.get("positional", "") == ", ".join(other.name for other in others), name
        assert set(doc["options"]) == {"_input", *(other.name for other in others)}, name
        for other in others:
            option = doc["options"][other.name]
            needed = other.default is inspect.Parameter.empty
            assert option.get("required", False) == needed, (name, other.name)
            assert needed or option["default"] == (list(other.default) if isinstance(other.default, tuple) else other.default), (name, other.name)


def test_lines_of_code_are_no_longer_than_ansible_test_allows():
    shipped = [path for directory in ("plugins", "roles") for path in (ROOT / directory).rglob("*.py")]
    assert not [f"{name_of(path)}: {line}" for path in shipped for line in path.read_text().splitlines() if len(line) > 160]
