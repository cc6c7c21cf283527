"""config.yaml over defaults, environment over both, by Throat's rules (its traps included)."""
import copy
import os

import yaml

# Throat ships with debug on and a public key as well: whoever deploys must set both.
DEFAULTS = {
    "site": {"trusted_proxy_count": 0, "upload_max_size": 16777216},
    "app": {
        "redis_url": "redis://127.0.0.1:6379",
        "secret_key": "public",
        "debug": True,
        "max_content_length": 10485760,
        "languages": ["en"],
    },
    "cache": {"type": "null"},
    "mail": {},
    "storage": {"provider": "LOCAL", "uploads": {"path": "./stor", "url": ""}, "thumbnails": {"path": "./thumbs", "url": ""}},
    "database": {"autoconnect": False},
    "ratelimit": {"default": "60/minute"},
}


def merge(base, over):
    for key, value in over.items():
        if isinstance(base.get(key), dict):
            if not isinstance(value, dict):
                raise TypeError(f"Value found where dict expected at {key}")
            merge(base[key], value)
        else:
            base[key] = value
    return base


def from_environment(config, prefix=""):
    """A variable named by the path of a map sets a key of it: an int where there was one, else a string (also for booleans)."""
    for name in list(config):
        if isinstance(config[name], dict):
            from_environment(config[name], f"{prefix}{name.upper()}_")
    if prefix:
        for variable, text in os.environ.items():
            key = variable[len(prefix) :].lower()
            if variable.startswith(prefix) and key and not isinstance(config.get(key), dict):
                is_int = isinstance(config.get(key), int) and not isinstance(config.get(key), bool)
                config[key] = int(text) if is_int else text
    return config


def load():
    with open("config.yaml") as stream:  # of the working directory, as Throat does
        config = merge(copy.deepcopy(DEFAULTS), yaml.safe_load(stream) or {})
    return from_environment(config)
