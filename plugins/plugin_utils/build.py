"""Overrides of pins in Throat's lock files that no longer build or run, what a release is made from, and what an image may be."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Variables of the build's environment that say how the network is reached, and as whom. A new proxy or token changes nothing of what is built;
# and a secret is not to be stored, not even as a checksum, by which a short one could be guessed.
WAYS_OUT = re.compile(r"proxy|cert|_ca|cafile|token|auth|secret|passw|key|http_basic|index_url|registry|trusted_host|^git_", re.IGNORECASE)


def _name(requirement: str) -> str:
    """Return the normalised name (PEP 503) of a requirement line, empty for anything else."""
    found = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", requirement)
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""


def override_requirements(locked: str, overrides: Iterable[str], additions: Iterable[str] = ()) -> dict[str, str]:
    """Split exported requirements: `locked` without the overridden packages, `overrides` with their replacement and the additions.

    Of several overrides of a package the last one counts; those of packages that the lock does not have are left out.
    """
    replacements = {_name(line): line for line in overrides}
    used = {_name(line): line for line in additions}
    kept: list[str] = []
    # An entry is a line and the continuation lines (hashes) that follow it.
    for entry in re.split(r"\n(?=\S)", locked.strip()):
        name = _name(entry)
        if name in replacements:
            used[name] = replacements[name]
        elif name not in used:
            kept.append(entry)
    return {"locked": "\n".join(kept) + "\n", "overrides": "\n".join(used.values()) + "\n"}


def override_npm_lock(lock: str, overrides: Iterable[Mapping[str, str]]) -> str:
    """Return a package-lock.json (any lockfileVersion) with packages replaced by a version of the registry.

    A replaced package has no `resolved` address, so that npm asks the registry it is configured for.
    """
    wanted = {item["name"]: item for item in overrides}

    def replace(entry: dict[str, Any], item: Mapping[str, str]) -> None:
        entry.pop("resolved", None)
        entry.update(version=item["version"], integrity=item["integrity"])

    def walk(dependencies: dict[str, Any]) -> None:
        for name, entry in dependencies.items():
            if name in wanted:
                replace(entry, wanted[name])
            for required in set(entry.get("requires") or {}) & set(wanted):
                entry["requires"][required] = wanted[required]["version"]
            walk(entry.get("dependencies") or {})

    content = json.loads(lock)
    walk(content.get("dependencies") or {})
    for path, entry in (content.get("packages") or {}).items():
        name = path.rpartition("node_modules/")[2]
        if name in wanted and path:
            replace(entry, wanted[name])
        for required in set(entry.get("dependencies") or {}) & set(wanted):
            entry["dependencies"][required] = wanted[required]["version"]
    return json.dumps(content, indent=2) + "\n"


def _checksum(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def build_inputs(arguments: Mapping[str, Any], debian: str, tools: Sequence[str], recipe: Sequence[str]) -> dict[str, str]:
    """Return what a release is made from beside its source: {what it is, in the operator's words: a checksum of it}.

    arguments: of the role; debian: major version of the host that builds; tools: requirements of what builds; recipe: the files
    that an image is made by. Empty for somebody else's image.
    """
    if arguments["source_type"] in ("image", "image_archive"):
        return {}
    environment = {name: value for name, value in arguments["build_environment"].items() if not WAYS_OUT.search(name)}
    inputs = {"throat_gunicorn_build_environment": environment, "the collection's build tools": list(tools), "the Debian of the host that builds": debian}
    inputs |= {f"throat_gunicorn_{name}": arguments[name] for name in ("python_overrides", "python_additions", "npm_overrides")}
    if arguments["runtime"] == "container":
        inputs |= {"throat_gunicorn_image_base": arguments["image_base"], "the collection's recipe of an image": list(recipe)}
    return {name: _checksum(value) for name, value in inputs.items()}


def release_name(source: str, inputs: Mapping[str, str], files: Mapping[str, Mapping[str, Any]], base: str) -> dict[str, Any]:
    """Return {"name": of the release of this source and these inputs, "changed": the inputs by which it differs from the kept one that the source alone names}.

    A release is named by its source, as long as none of that name is kept that was made from something else: then a checksum of the inputs is added,
    so that it is built beside the other. A kept release that does not say what it was made from, an older collection's or one without an image
    yet, counts as made from the same.
    files: those of the host that builds; base: the directory of the site's releases there.
    """
    recorded = json.loads(files.get(f"{base}/releases/{source}/.inputs", {}).get("content") or "{}")
    changed = sorted(name for name, value in inputs.items() if recorded.get(name, value) != value)
    other = f"{source}-{_checksum(inputs)[:6]}"
    return {"name": other if changed or f"{base}/releases/{other}/.inputs" in files else source, "changed": changed}


def runtime_errors(runtime: str, source_type: str, source: str, version: str, base: str) -> list[str]:
    """Return one line per reason why workers cannot run in this runtime (native, container) from this source, or would run another image every time."""
    is_image = source_type in ("image", "image_archive")
    lines = []
    if is_image and runtime != "container":
        lines.append(
            f"throat_gunicorn_source_type: {source_type}, but with throat_gunicorn_runtime {runtime} the workers do not run in containers; "
            "set throat_gunicorn_runtime to container, or take the source from git, an archive or a directory"
        )
    if source_type == "image":
        if version in ("", "latest"):
            lines.append(
                f"throat_gunicorn_version: {version or 'not set'}, but an image needs a tag that stays with it; "
                "give it one of its own, or its digest (sha256:...)"
            )
        if ":" in source.rpartition("/")[2] or "@" in source:
            lines.append(f"throat_gunicorn_source: {source} ends with a tag or a digest; move that into throat_gunicorn_version")
    tag = base.rpartition("/")[2].partition(":")[2]
    if base and runtime == "container" and not is_image and tag in ("", "latest"):
        lines.append(f"throat_gunicorn_image_base: {base}, but must name a tag other than latest, or a digest; for example debian:bookworm-slim")
    return lines
