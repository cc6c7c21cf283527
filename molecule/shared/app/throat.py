#!/usr/bin/env python3
"""The command line, in Throat's shapes: it answers 0 on logical errors, and "admin add" adds twice."""
from gevent import monkey

# Ahead of the imports, which it changes.
monkey.patch_all()

import logging
import subprocess

import click
from flask.cli import FlaskGroup
from peewee import fn
from peewee_migrate import Router

from app import create_app
from app.models import SiteMetadata, Sub, User, UserMetadata, database

application = create_app()


@click.group(cls=FlaskGroup, create_app=lambda: application, add_default_commands=False)
def run():
    """Manage the site."""


@run.group()
def migration():
    """Manage database migrations."""


def router():
    database.connect()
    logger = logging.getLogger("migration")
    logger.setLevel(logging.DEBUG)
    return Router(database.obj, migrate_dir="migrations", migrate_table="migratehistory", logger=logger)


@migration.command(name="apply")
def apply_migrations():
    router().run()


@migration.command(name="list")
def list_migrations():
    here = router()
    done = here.done
    for name in here.todo:
        print("✓" if name in done else "✗", name)


@run.group()
def route():
    """Show routes."""


@route.command(name="list")
def list_routes():
    print(f"{'Rule':80}{'Endpoint':35}{'Methods':12}{'Notes':10}")
    print("-" * 137)
    for rule in sorted(application.url_map.iter_rules(), key=lambda rule: rule.rule):
        methods = ", ".join(rule.methods - {"HEAD", "OPTIONS"})
        view = application.view_functions[rule.endpoint]
        print(f"{rule.rule:80}{rule.endpoint:35}{methods:12}{'gevent' if hasattr(view, 'gevent_required') else '':10}")


@run.group()
def translations():
    """Manage translations."""


@translations.command(name="compile")
def compile_translations():
    subprocess.run("pybabel compile -d app/translations", shell=True)


@run.group()
def admin():
    """Manage administrators."""


@admin.command(name="add")
@click.argument("username")
def add_admin(username):
    database.connect()
    user = User.get_or_none(fn.Lower(User.name) == username.lower())
    if user is None:
        print("Error: User does not exist")
        return
    UserMetadata.create(uid=user.uid, key="admin", value="1")
    print("Done.")


@admin.command(name="list")
def list_admins():
    database.connect()
    print("Administrators: ")
    for user in User.select().join(UserMetadata, on=UserMetadata.uid == User.uid).where(UserMetadata.key == "admin"):
        print("  ", user.name)


@run.group()
def default():
    """Manage default subs."""


@default.command(name="add")
@click.argument("name")
def add_default(name):
    database.connect()
    sub = Sub.get_or_none(fn.Lower(Sub.name) == name.lower())
    if sub is None:
        print("Error: Sub does not exist")
        return
    SiteMetadata.create(key="default", value=sub.sid)
    print("Done.")


if __name__ == "__main__":
    run()
