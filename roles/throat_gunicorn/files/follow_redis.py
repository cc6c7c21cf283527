# Made by Ansible, edits are lost.
# X-Throat=yes (by this line the playbook knows its own files)
"""Restart the async workers after Redis, wherever it is: Throat's own listeners die with their connection to it and do not come back.

Usage: follow_redis.py <unit>...    (runs until it is stopped)
Asks Redis every two seconds which process it is; another one, or none for a while, means that the connections of the workers are gone.
"""
import pathlib
import subprocess
import sys
import time

import redis
import yaml


def connect():
    """Address and password are those of now, in the configuration beside this file."""
    with pathlib.Path(__file__).with_name("config.yaml").open() as file:
        return redis.from_url(yaml.safe_load(file)["app"]["redis_url"], socket_timeout=10)


client, known = connect(), None
while True:
    try:
        found = client.info("server")["run_id"]
        if known not in (None, found):
            print("Redis has restarted or was out of reach: restarting the async workers", flush=True)
            subprocess.run(["systemctl", "--no-block", "try-restart", *sys.argv[1:]], check=True)
        known = found
    except redis.RedisError as error:
        if known != "lost":
            print(f"Redis does not answer: {error}", flush=True)
        client, known = connect(), "lost"
    time.sleep(2)
