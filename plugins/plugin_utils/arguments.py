"""Variables of the inventory against what the argument specifications say of them: converted once, or refused with one line each.

What is returned is what roles and templates use, so that nothing is checked as one thing and used as another. Ansible's own check
(which runs as well) dumps the whole specification when it fails, prints secrets in type errors and does not see misspelt names.
"""

from __future__ import annotations

import difflib
import json
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

# What the examples have in place of a secret.
PLACEHOLDER = "change-me"
# Text of several lines.
LINES = (
    "nginx_server_snippet",
    "pgbouncer_server_certificate",
    "throat_gunicorn_database_certificates",
    "throat_gunicorn_config",
    "throat_gunicorn_site_settings",
)
# How a value is written in an INI inventory, and on the command line.
WRITTEN = {"list": "{name}=['one', 'two'] in INI, -e '{{\"{name}\": [\"one\", \"two\"]}}'", "dict": "-e '{{\"{name}\": {{\"key\": \"value\"}}}}'"}


def plain(value: Any) -> Any:
    """Return a value without what Ansible has attached to it (where it came from, whether it may be a template)."""
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return value if kind is bool else kind(value)
    return value


def structured(value: Any) -> Any:
    """Return a plain value, of text that is a list or a dictionary in YAML what it says."""
    value = plain(value)
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        try:
            return yaml.safe_load(value)
        except yaml.YAMLError:
            pass
    return value


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


def converted(name: str, option: Mapping[str, Any], value: Any) -> tuple[Any, list[str]]:
    """Return (value as its type, []) or (None, one line per error, without the name in front).

    Text stands for a number, a yes or no, a list ("a,b", or YAML) or a dictionary (YAML, or "a=b,c=d") as INI and -e name=value deliver it.
    """
    kind, shown = option["type"], "********" if option.get("no_log") else value
    text = value.strip() if isinstance(value, str) else value
    if kind in ("str", "path"):
        if isinstance(value, bool):
            return None, [f"{shown} is a yes or no, but must be text; put it in quotes"]
        if isinstance(value, (list, dict)):
            return None, [f"{json.dumps(shown)} is no text; write one value"]
        value = str(value)
    elif kind == "int":
        if isinstance(value, bool) or not str(text).removeprefix("-").isascii() or not str(text).removeprefix("-").isdecimal():
            return None, [f"{shown} is no whole number; write digits only, as in {name}: {option.get('default', 1)}"]
        value = int(text)
    elif kind == "bool":
        words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
        if str(text).lower() not in words:
            return None, [f"{shown} is neither yes nor no; write true or false"]
        value = words[str(text).lower()]
    else:
        value = structured(value)
        if isinstance(value, str) and text[:1] in ("[", "{"):
            return None, [f"{shown} is no {kind} in YAML; write " + WRITTEN[kind].format(name=name)]
        result = ArgumentSpecValidator({name: {**option, "required": False}}).validate({name: value})
        if result.error_messages:
            secrets = secret_values({name: option}, {name: value})
            # (Entries with names are nothing for a line.)
            shape = "its entries in YAML, as docs/variables.md has them" if option.get("elements") == "dict" else WRITTEN[kind].format(name=name)
            return None, [_masked(message, secrets) + f"; write {shape}" for message in result.error_messages]
        if isinstance(text, str) and option.get("elements") == "str":
            # Text is taken apart at its commas.
            result.validated_parameters[name] = [item.strip() for item in result.validated_parameters[name]]
        value = _filled(plain(result.validated_parameters[name]))
    if (said := _impossible(name, option, value)) is not None:
        return None, [said]
    if option.get("choices") and value not in option["choices"]:
        return None, [f"{shown}, but must be one of {', '.join(map(str, option['choices']))}"]
    return value, []


def _impossible(name: str, option: Mapping[str, Any], value: Any) -> str | None:
    """Return why a value of the right type cannot be meant, at any depth."""
    if isinstance(value, dict):
        nested = option.get("options") or {}
        return next((said for key, item in value.items() if (said := _impossible(f"{name}.{key}", nested.get(key, {}), item))), None)
    if isinstance(value, list):
        return next((said for item in value if (said := _impossible(name, {"options": option.get("options")}, item))), None)
    inside = f"{name.partition('.')[2]} " if "." in name else ""
    if isinstance(value, int) and not isinstance(value, bool):
        if name.endswith("port") and not 1 <= value <= 65535:
            return f"{inside}{value} is no port; write a number from 1 to 65535"
        if value < 0 and option.get("type") == "int":
            return f"{inside}{value} is too low; set 0 or more"
    if isinstance(value, str) and name.partition(".")[0] not in LINES and any(unicodedata.category(letter) == "Cc" for letter in value):
        return f"{inside}has a control character (a line break, for one); take it out"
    return None


def _filled(value: Any) -> Any:
    """Return a nested value without the options that nobody set and that have no default."""
    if isinstance(value, dict):
        return {key: _filled(item) for key, item in value.items() if item is not None}
    return [_filled(item) for item in value] if isinstance(value, list) else value


def _masked(message: str, secrets: Collection[str]) -> str:
    for secret in secrets:
        message = message.replace(secret, "********")
    return message.rstrip(".")


def convert(options: Mapping[str, Any], variables: Mapping[str, Any], where: str = "") -> tuple[dict[str, Any], list[str]]:
    """Return the variables that are set, as their types, and one line per error; what is refused is left out.

    options: of an argument specification; variables: name to raw value; where: said behind the name, " on <host>".
    """
    values, errors = {}, []
    for name in sorted(variables):
        value = plain(variables[name])
        if name not in options:
            near = difflib.get_close_matches(name, options, n=1)
            advice = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(options))}"
            errors.append(f"{name}{where}: no such variable; {advice}")
        elif value is not None:
            if options[name].get("no_log") and value == PLACEHOLDER:
                errors.append(f"{name}{where}: still the example's {PLACEHOLDER}; set a long random value (openssl rand -hex 24)")
            result, said = converted(name, options[name], value)
            errors += [f"{name}{where}: {line}" for line in said]
            if not said:
                values[name] = result
    return values, errors


def missing(options: Mapping[str, Any], values: Mapping[str, Any], where: str = "") -> list[str]:
    """Return one line for each required variable without a value."""
    return [
        f"{name}{where}: not set, but required ({option['description'].rstrip('.')})."
        + (" It is a secret: keep it in a vault." if option.get("no_log") else "")
        for name, option in options.items()
        if option.get("required") and values.get(name) in (None, "")
    ]


def defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the default of every option, None where it has none, with those of nested options filled in."""
    return {name: converted(name, option, option["default"])[0] if option.get("default") is not None else None for name, option in options.items()}


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


def platform_errors(roles: Sequence[tuple[str, Mapping[str, Any]]], host: str, facts: Mapping[str, Any]) -> list[str]:
    """Return one line for each role that does not support the host's distribution.

    roles: (name, content of its meta/main.yml); facts: ansible_facts of the host.
    """
    lines = []
    for role, meta in roles:
        supported = {platform["name"]: platform["versions"] for platform in meta["galaxy_info"]["platforms"]}
        if facts["distribution_release"] not in supported.get(facts["distribution"], ()):
            known = "; ".join(f"{name} {' and '.join(versions)}" for name, versions in supported.items())
            lines.append(
                f"{host} runs {facts['distribution']} {facts['distribution_version']} ({facts['distribution_release']}), but the role {role} supports "
                f"{known}: use another host for it, or reinstall this one"
            )
    return lines
