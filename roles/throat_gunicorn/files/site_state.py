"""Compare what Throat keeps in its database with what the inventory declares, or make it so.

Usage: site_state.py report|migrate|apply < desired.json    (working directory: a release)

Throat's own commands are not used where they answer 0 on errors and `admin add` adds twice.
Prints one JSON object:
  report   migrated (whether any migration has been applied), pending_migrations (names of those that this release has and the database
           has not seen), foreign_migrations (those that the database has seen and this release has not), differences (what is not as declared,
           without secrets)
  migrate  applied (names of migrations)
  apply    differences (what was not as declared)
Exit status 1 and the reason on stderr when the database cannot be brought to the declared state.
"""
import difflib
import json
import os
import pathlib
import subprocess
import sys
import uuid

import psycopg2
import psycopg2.errors

LOCK_TIMEOUT = "10min"


def fetch(cursor, query, *args):
    cursor.execute(query, args)
    return [row[0] for row in cursor.fetchall()]


def as_stored(value):
    """The text that Throat stores for a setting: booleans as 1 and 0."""
    return str(int(value)) if isinstance(value, bool) else str(value)


def create_user(cursor, admin):
    import bcrypt  # only in the release's environment, and only needed here

    uid = str(uuid.uuid4())
    hashed = bcrypt.hashpw(admin["password"].encode(), bcrypt.gensalt()).decode()
    cursor.execute(
        """INSERT INTO "user" (uid, name, email, crypto, password, status, score, given, resets, joindate)
           VALUES (%s, %s, %s, 1, %s, 0, 0, 0, 0, now() AT TIME ZONE 'utc')""",
        (uid, admin["name"], admin.get("email") or None, hashed),
    )
    return uid


def create_sub(cursor, name, owner):
    sid = str(uuid.uuid4())
    cursor.execute(
        """INSERT INTO sub (sid, name, title, nsfw, sidebar, status, sort, creation, subscribers, posts)
           VALUES (%s, %s, %s, false, '', 0, 'v', now() AT TIME ZONE 'utc', 1, 0)""",
        (sid, name, name),
    )
    cursor.execute("INSERT INTO sub_stylesheet (sid, content, source) VALUES (%s, '', '')", (sid,))
    cursor.execute(
        "INSERT INTO sub_mod (uid, sid, power_level, invite) VALUES (%s, %s, 0, false)", (owner, sid)
    )
    cursor.execute(
        "INSERT INTO sub_subscriber (sid, uid, status, time) VALUES (%s, %s, 1, now() AT TIME ZONE 'utc')",
        (sid, owner),
    )
    return sid


def settings(cursor, desired, apply):
    """Returns the full keys (site.x) of the settings that differ."""
    cursor.execute("SELECT key, value FROM site_metadata WHERE key LIKE 'site.%'")
    stored = dict(cursor.fetchall())
    keys = {f"site.{name}": as_stored(value) for name, value in desired.items()}
    unknown = sorted(set(keys) - set(stored))
    if unknown:
        near = difflib.get_close_matches(unknown[0], stored, n=1)
        advice = f"did you mean {near[0][5:]}?" if near else f"known are {', '.join(sorted(key[5:] for key in stored))}"
        sys.exit(f"throat_gunicorn_site_settings: {unknown[0][5:]}: Throat has no such setting; {advice}")
    different = sorted(key for key, value in keys.items() if stored[key] != value)
    for key in different if apply else ():
        cursor.execute("UPDATE site_metadata SET value = %s WHERE key = %s", (keys[key], key))
    return different


def administrator(cursor, admin, apply):
    """Returns (uid or None, differences)."""
    if not admin:
        return None, []
    differences = []
    found = fetch(cursor, 'SELECT uid FROM "user" WHERE lower(name) = lower(%s)', admin["name"])
    uid = found[0] if found else None
    if not uid:
        differences.append(f"user {admin['name']} is missing")
        uid = create_user(cursor, admin) if apply else None
    if not uid or not fetch(cursor, "SELECT 1 FROM user_metadata WHERE uid = %s AND key = 'admin' AND value = '1'", uid):
        differences.append(f"user {admin['name']} is no administrator")
        if apply:
            cursor.execute("INSERT INTO user_metadata (uid, key, value) VALUES (%s, 'admin', '1')", (uid,))
    return uid, differences


def default_subs(cursor, names, owner, apply):
    differences = []
    for name in names:
        found = fetch(cursor, "SELECT sid FROM sub WHERE lower(name) = lower(%s)", name)
        sid = found[0] if found else None
        if not sid:
            differences.append(f"sub {name} is missing")
            if apply:
                if not owner:
                    sys.exit(f"throat_gunicorn_default_subs: sub {name} is missing, and throat_gunicorn_admin names nobody to own it")
                sid = create_sub(cursor, name, owner)
        if not sid or not fetch(cursor, "SELECT 1 FROM site_metadata WHERE key = 'default' AND value = %s", sid):
            differences.append(f"sub {name} is no default")
            if apply:
                cursor.execute("INSERT INTO site_metadata (key, value) VALUES ('default', %s)", (sid,))
    return differences


def history(cursor):
    """Returns the migrations that (the database has seen, this release has and the database has not seen, the database has seen and this release has not)."""
    seen = set()
    if fetch(cursor, "SELECT to_regclass('migratehistory') IS NOT NULL")[0]:
        seen = set(fetch(cursor, "SELECT name FROM migratehistory"))
    own = {path.stem for path in pathlib.Path("migrations").glob("[0-9][0-9][0-9]_*.py")}
    return seen, sorted(own - seen), sorted(seen - own)


def migrate(connection, database):
    """Apply the pending migrations by Throat's own command, in one deploy at a time: the other waits, and finds that nothing is left to do."""
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = 0; SET lock_timeout = %s", (LOCK_TIMEOUT,))
        try:
            # Held until this connection ends, however it ends.
            cursor.execute("SELECT pg_advisory_lock(hashtext('throat.stack migrations'))")
        except psycopg2.errors.LockNotAvailable:
            sys.exit(f"Another deploy has been migrating this database for {LOCK_TIMEOUT}. Wait until it ends, and run this again.")
        _seen, pending, foreign = history(cursor)
        if pending and foreign:
            sys.exit(
                f"The database has been changed by {', '.join(foreign)}, which this release does not have: "
                "Throat applies no others then. Deploy one that has them."
            )
        if pending:
            # The application takes each variable DATABASE_<KEY> as a setting; here, those of the server itself. A migration may take as long as it needs.
            server = {f"DATABASE_{key.upper()}": str(database[key]) for key in ("host", "port", "password", "sslmode", "sslrootcert") if database.get(key)}
            done = subprocess.run(
                [sys.executable, "throat.py", "migration", "apply"],
                env={**os.environ, **server, "DATABASE_APPLICATION_NAME": f"{database['dbname']}-migration", "PGOPTIONS": "-c statement_timeout=0"},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            )
            left = history(cursor)[1]
            # The database says what was applied: gevent 22 and Python 3.11 now and then crash as they end, with all done.
            if done.returncode > 0 or left:
                applied = ", ".join(name for name in pending if name not in left) or "none"
                sys.exit(f"{done.stdout.strip()}\nMigration {left[0] if left else pending[-1]} failed; applied before it: {applied}.")
    return {"applied": pending}


def main():
    action = sys.argv[1]
    desired = json.load(sys.stdin)
    try:
        connection = psycopg2.connect(**desired["database"])
    except psycopg2.OperationalError as error:
        sys.exit(f"PostgreSQL does not answer: {error}".strip())
    if action == "migrate":
        print(json.dumps(migrate(connection, desired["database"])))
        return
    apply = action == "apply"
    try:
        with connection, connection.cursor() as cursor:
            seen, pending, foreign = history(cursor)
            if pending and not apply:
                differences = ["the database is not migrated"]
                changed_settings = []
            else:
                changed_settings = settings(cursor, desired["settings"], apply)
                owner, differences = administrator(cursor, desired["admin"], apply)
                differences += default_subs(cursor, desired["default_subs"], owner, apply)
    except psycopg2.Error as error:
        # Its first line only: the others may show the row that was refused, the administrator's hashed password in it.
        sys.exit("PostgreSQL refused: " + str(error).partition("\n")[0])
    if apply and changed_settings:
        # After the commit: a worker that reads in between would cache the old value again for five minutes.
        import redis

        redis.from_url(desired["redis_url"]).delete(*(f"flask_cache_{key}" for key in changed_settings))
    print(json.dumps({"migrated": bool(seen), "pending_migrations": pending, "foreign_migrations": foreign, "differences": changed_settings + differences}))


main()
