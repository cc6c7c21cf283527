"""Boot the release in the working directory, with the config.yaml there, as a worker would and before any worker goes over to it.

Usage: prove.py [page] [routes]
  page    asks the application for a page that it reads from the database
  routes  prints what the release's own "throat.py route list" prints
Exit status 1 and the application's own words on stderr when it cannot boot, 3 when it makes no page.
"""
import os
import subprocess
import sys
import traceback

sys.path.insert(0, os.getcwd())
from throat_prod import app

if "page" in sys.argv:
    try:
        answer = app.test_client().get("/all/new", headers={"X-Forwarded-For": "127.0.0.1"})
        if answer.status_code != 200:
            raise RuntimeError(f"/all/new answers {answer.status}")
    except Exception:
        traceback.print_exc()
        sys.exit(3)
if "routes" in sys.argv:
    sys.exit(int(subprocess.run([sys.executable, "throat.py", "route", "list"], check=False).returncode != 0))
