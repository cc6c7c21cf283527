"""Check variables and platform of a role against what its meta directory says, one line per error.

Ansible's own check (which runs as well) dumps the whole specification when it fails, prints secrets in
type errors and does not see misspelt names. This one is for the person who reads the output.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator


# What the examples have in place of a secret.
PLACEHOLDER = "change-me"


def secret_values(options: Mapping[str, Any], values: Any) -> set[str]:
    """Return the values (as text) of all options marked no_log, at any depth."""
    found: set[str] = set()
    for item in values if isinstance(values, list) else [values]:
        if not isinstance(item, Mapping):
            continue
        for name, option in options.items():
            value = item.get(name)
            if value in (None, ""):
                continue
            if option.get("no_log"):
                found.add(str(value))
            if option.get("options"):
                found |= secret_values(option["options"], value)
    return found


def argument_errors(spec: Mapping[str, Any], variables: Mapping[str, Any]) -> list[str]:
    """Return one line per error, empty when all is well.

    spec: content of meta/argument_specs.yml; its entry point "main" is used.
    variables: name to value of all variables that begin with the role's name.
    """
    options = spec["argument_specs"]["main"]["options"]
    errors = []
    for name in sorted(set(variables) - set(options)):
        near = difflib.get_close_matches(name, options, n=1)
        advice = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(options))}"
        errors.append(f"{name}: no such variable; {advice}")

    given = {name: value for name, value in variables.items() if name in options and value is not None}
    for name, option in options.items():
        if option.get("required") and given.get(name) in (None, ""):
            secret = " It is a secret: keep it in a vault." if option.get("no_log") else ""
            errors.append(f"{name}: not set, but required ({option['description'].rstrip('.')}).{secret}")
            given.pop(name, None)
        elif option.get("no_log") and given.get(name) == PLACEHOLDER:
            errors.append(f"{name}: still the example's {PLACEHOLDER}; set a long random value (openssl rand -hex 24)")
    # Only what is given is checked here: what is missing is named above, and defaults are the role's own.
    checked = {name: {**options[name], "required": False} for name in given}
    result = ArgumentSpecValidator(checked).validate(given)
    secrets = secret_values(options, given)
    for message in result.error_messages:
        for secret in secrets:
            message = message.replace(secret, "********")
        errors.append(message)
    return errors


def misspelt_prefixes(names: Iterable[str], known: Collection[str]) -> list[str]:
    """Return one line for each name that is a known variable but for a letter or two of the role's name, like postgress_port."""
    prefixes = tuple({f"{name.partition('_')[0]}_" for name in known})
    errors = []
    for name in sorted(names):
        if name in known or name.startswith(prefixes):
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
        if near and name.partition("_")[2] == near[0].partition("_")[2]:
            errors.append(f"{name}: no such variable; did you mean {near[0]}?")
    return errors


def platform_errors(meta: Mapping[str, Any], role: str, host: str, facts: Mapping[str, Any]) -> list[str]:
    """Return one line when the host's distribution is none that the role supports, else nothing.

    meta: content of the role's meta/main.yml; facts: ansible_facts of the host (subset "distribution").
    """
    supported = {platform["name"]: platform["versions"] for platform in meta["galaxy_info"]["platforms"]}
    if facts["distribution_release"] in supported.get(facts["distribution"], ()):
        return []
    known = "; ".join(f"{name} {' and '.join(versions)}" for name, versions in supported.items())
    return [
        f"{host} runs {facts['distribution']} {facts['distribution_version']} ({facts['distribution_release']}), but the role {role} supports "
        f"{known}: use another host for it, or reinstall this one"
    ]
