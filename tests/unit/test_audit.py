"""What is said of the known holes in a release's packages."""

import pathlib

import pytest
import yaml
from ansible_collections.throat.stack.plugins.plugin_utils.audit import audit_report

ANSWERS = yaml.safe_load((pathlib.Path(__file__).parents[1] / "data/audits.yml").read_text())


def test_each_hole_is_named_with_what_closes_it():
    report = audit_report(ANSWERS["python"], ANSWERS["npm"])
    text = "\n".join(report["lines"])
    rows = [line.split() for line in report["lines"]]
    assert report["unanswered"] == []
    assert text.startswith("4 known holes in 4 Python packages; nothing is said about throat-own\n1 known hole in 312 packages of the front end")
    assert ["CVE-2023-37920", "2023.7.22"] in [row[-2:] for row in rows]
    assert ["ecdsa", "0.18.0", "CVE-2024-23342", "nothing", "yet"] in rows
    assert ["lodash", "<=4.17.20", "GHSA-35jh-r3h4-6jhm", "a", "version", "outside", "<4.17.21", "(high)"] in rows
    # Has it of another one, and none of its own.
    assert "grunt" not in text


def test_overrides_can_be_pasted_and_close_every_hole_that_has_a_fix():
    lines = audit_report(ANSWERS["python"], "")["lines"]
    pasted = yaml.safe_load("\n".join(lines[lines.index("throat_gunicorn_python_overrides:") :]))
    # The later of two, and the earliest of those that close one.
    assert pasted == {"throat_gunicorn_python_overrides": ["certifi==2024.7.4", "jinja2==3.1.3"]}


@pytest.mark.parametrize(
    ("python", "npm", "said"),
    [
        ("silent_python", "npm", "PyPI does not answer what is known of its packages (it skips all 1)"),
        ("python", "silent_npm", "the npm registry does not answer what is known of its packages (405 Method Not Allowed)"),
        ("Traceback:\nConnectionError: no such name", "npm", "PyPI does not answer what is known of its packages (ConnectionError: no such name)"),
        ("python", '{"error": {"summary": "request failed"}}', "the npm registry does not answer what is known of its packages (request failed)"),
    ],
)
def test_silence_is_not_taken_for_health(python, npm, said):
    report = audit_report(ANSWERS.get(python, python), ANSWERS.get(npm, npm))
    assert [line.partition(": this")[0] for line in report["unanswered"]] == [said]
    # What the other has said is told.
    assert len(report["lines"]) > 3
