"""Tables with the names and columns of Throat's that a deployment touches."""
import importlib
import uuid
from datetime import datetime

from peewee import BooleanField, CharField, DateTimeField, ForeignKeyField, IntegerField, Model, PrimaryKeyField, Proxy, TextField

database = Proxy()


def connect(settings):
    """Initialise the database from config.yaml's section: name and engine, the rest goes to the driver."""
    settings = dict(settings)
    try:
        name, engine = settings.pop("name"), settings.pop("engine")
    except KeyError:
        raise RuntimeError("DATABASE configuration must specify a `name` and `engine`.") from None
    path, _, kind = engine.rpartition(".")
    database.initialize(getattr(importlib.import_module(path or "peewee"), kind)(name, **settings))


class Table(Model):
    class Meta:
        database = database


class User(Table):
    uid = CharField(primary_key=True, max_length=40, default=lambda: str(uuid.uuid4()))
    name = CharField(null=True, unique=True, max_length=64)
    email = CharField(null=True)
    crypto = IntegerField(default=1)
    password = CharField(null=True)
    status = IntegerField(default=0)
    score = IntegerField(default=0)
    given = IntegerField(default=0)
    resets = IntegerField(default=0)
    joindate = DateTimeField(null=True, default=datetime.utcnow)


class UserMetadata(Table):
    xid = PrimaryKeyField()
    uid = ForeignKeyField(User, column_name="uid", null=True)
    key = CharField(null=True)
    value = CharField(null=True)

    class Meta:
        table_name = "user_metadata"


class SiteMetadata(Table):
    xid = PrimaryKeyField()
    key = CharField(null=True)
    value = CharField(null=True)

    class Meta:
        table_name = "site_metadata"


class Sub(Table):
    sid = CharField(primary_key=True, max_length=40, default=lambda: str(uuid.uuid4()))
    name = CharField(unique=True, max_length=32)
    title = CharField(null=True, max_length=50)
    nsfw = BooleanField(default=False)
    sidebar = TextField(default="")
    status = IntegerField(default=0)
    sort = CharField(null=True, max_length=32)
    creation = DateTimeField(default=datetime.utcnow)
    subscribers = IntegerField(default=1)
    posts = IntegerField(default=0)


class SubPost(Table):
    pid = PrimaryKeyField()
    title = CharField(null=True)
    content = TextField(null=True)
    posted = DateTimeField(default=datetime.utcnow)
    sid = ForeignKeyField(Sub, column_name="sid", null=True)
    uid = ForeignKeyField(User, column_name="uid", null=True)

    class Meta:
        table_name = "sub_post"


class SubMod(Table):
    user = ForeignKeyField(User, column_name="uid")
    sub = ForeignKeyField(Sub, column_name="sid")
    power_level = IntegerField()
    invite = BooleanField(default=False)

    class Meta:
        table_name = "sub_mod"


class SubStylesheet(Table):
    xid = PrimaryKeyField()
    content = TextField(null=True)
    source = TextField()
    sid = ForeignKeyField(Sub, column_name="sid", null=True)

    class Meta:
        table_name = "sub_stylesheet"


class SubSubscriber(Table):
    xid = PrimaryKeyField()
    sid = ForeignKeyField(Sub, column_name="sid", null=True)
    uid = ForeignKeyField(User, column_name="uid", null=True)
    status = IntegerField(null=True)
    order = IntegerField(null=True)
    time = DateTimeField(default=datetime.utcnow)

    class Meta:
        table_name = "sub_subscriber"


TABLES = [User, UserMetadata, SiteMetadata, Sub, SubPost, SubMod, SubStylesheet, SubSubscriber]
