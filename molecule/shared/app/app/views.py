"""A few of Throat's routes, under its rules and with its gevent marks, and /_ref/ for the tests."""
import os
import pathlib
import secrets
import socket
import sys
import urllib.request

import bcrypt
import gevent
from flask import Blueprint, abort, current_app, jsonify, redirect, render_template, request
from flask_login import UserMixin, current_user, login_required, login_user, logout_user
from flask_socketio import emit, join_room
from gevent import monkey
from peewee import fn
from werkzeug.utils import secure_filename

from . import cache, csrf, limiter, login_manager, models, socketio, tasks

site = Blueprint("site", __name__)


def gevent_required(view):
    """Mark a view for "route list"; it must call gevent, so that a sync worker fails loudly."""

    def marked(*args, **kwargs):
        gevent.sleep(0)
        return view(*args, **kwargs)

    marked.__name__ = view.__name__
    marked.gevent_required = True
    return marked


def setting(name):
    """A setting of the database, cached for five minutes under Throat's key."""
    key = f"site.{name}"
    value = cache.get(key)
    if value is None:
        value = models.SiteMetadata.get(models.SiteMetadata.key == key).value
        cache.set(key, value, timeout=300)
    return value


class Account(UserMixin):
    def __init__(self, user):
        self.id, self.name = user.uid, user.name

    @property
    def is_admin(self):
        metadata = models.UserMetadata
        return metadata.select().where((metadata.uid == self.id) & (metadata.key == "admin") & (metadata.value == "1")).exists()


@login_manager.user_loader
def load_user(uid):
    user = models.User.get_or_none(models.User.uid == uid)
    return user and Account(user)


def page(posts=(), **values):
    return render_template("page.html", posts=posts, name=setting("name"), assets=current_app.config["ASSETS"], **values)


def newest():
    return models.SubPost.select(models.SubPost, models.Sub).join(models.Sub).order_by(models.SubPost.pid.desc()).limit(25)


@site.get("/")
@site.get("/all/new")
@site.get("/all/new/<int:page_number>")
def index(page_number=1):
    return page(newest())


@site.route("/login", methods=["GET", "POST"])
@limiter.limit("25/5minutes")
@gevent_required
def login():
    if request.method == "POST":
        user = models.User.get_or_none(fn.Lower(models.User.name) == request.form["username"].lower())
        if user and bcrypt.checkpw(request.form["password"].encode(), user.password.encode()):
            login_user(Account(user))
            return redirect("/")
        return page(form="login", error="Wrong user name or password")
    return page(form="login")


@site.post("/do/logout")
def logout():
    logout_user()
    return redirect("/")


def captcha():
    if setting("require_captchas") != "1":
        return None
    token = secrets.token_hex(8)
    current_app.redis.setex(f"cap-{token}", 300, secrets.token_hex(3))
    return token


def captcha_is_right():
    if setting("require_captchas") != "1":
        return True
    stored = current_app.redis.get(f"cap-{request.form.get('ctok')}")
    return bool(stored) and stored.decode() == request.form.get("captcha")


@site.route("/register", methods=["GET", "POST"])
@gevent_required
def register():
    if request.method == "POST":
        form = request.form
        if form.get("email_optional") is None or form["password"] != form["confirm"] or not captcha_is_right():
            return page(form="register", error="Please fill in the form", ctok=captcha())
        hashed = bcrypt.hashpw(form["password"].encode(), bcrypt.gensalt()).decode()
        login_user(Account(models.User.create(name=form["username"], password=hashed)))
        return redirect("/")
    return page(form="register", ctok=captcha())


@site.route("/recover", methods=["GET", "POST"])
@gevent_required
def recover():
    return page()


@site.route("/createsub", methods=["GET", "POST"])
@login_required
def create_sub():
    if request.method == "POST":
        if int(setting("sub_creation_min_level")) > 0 and not current_user.is_admin:
            return page(form="sub", error="You must be at least level 2")
        sub = models.Sub.create(name=request.form["subname"], title=request.form["title"])
        models.SubMod.create(user=current_user.id, sub=sub.sid, power_level=0)
        return redirect(f"/s/{sub.name}")
    return page(form="sub")


@site.get("/s/<sub>")
@site.get("/s/<sub>/<int:pid>")
def show_sub(sub, pid=None):
    posts = newest().where(models.Sub.name == sub)
    return page(posts if pid is None else posts.where(models.SubPost.pid == pid))


@site.get("/submit/<ptype>")
@site.get("/submit/<ptype>/<sub>")
@login_required
def submit_form(ptype, sub=""):
    return page(form="post", sub=sub, ctok=captcha())


@site.post("/submit/<ptype>")
@site.post("/submit/<ptype>/<sub>")
@limiter.limit("6/minute")
@login_required
@gevent_required
def submit(ptype, sub=""):
    if not captcha_is_right():
        return page(form="post", sub=sub, error="Wrong captcha", ctok=captcha()), 400
    found = models.Sub.get(models.Sub.name == request.form["sub"])
    post = models.SubPost.create(title=request.form["title"], content=request.form["content"], sid=found.sid, uid=current_user.id)
    # Reaches the browsers on the socketio worker through Redis.
    socketio.emit("thread", {"title": post.title, "pid": post.pid}, namespace="/snt", to="/all/new")
    return redirect(f"/s/{found.name}/{post.pid}")


@site.post("/do/upload/<sub>")
@login_required
@gevent_required
def upload(sub):
    file = request.files["files"]
    name = f"{secrets.token_hex(8)}-{secure_filename(file.filename)}"
    path = pathlib.Path(current_app.config["THROAT"]["storage"]["uploads"]["path"]) / name
    file.save(path)
    # As Throat's storage library leaves files, whatever the umask.
    path.chmod(0o664)
    return jsonify(status="ok", name=name)


@site.post("/do/upload/<sub>/delete/<name>")
@login_required
def delete_upload(sub, name):
    (pathlib.Path(current_app.config["THROAT"]["storage"]["uploads"]["path"]) / secure_filename(name)).unlink()
    return jsonify(status="ok")


@site.post("/_ref/thumbnail")
@limiter.exempt
@csrf.exempt
@gevent_required
def thumbnail():
    file = request.files["files"]
    name = f"{secrets.token_hex(8)}.jpg"
    tasks.thumbnail(file, pathlib.Path(current_app.config["THROAT"]["storage"]["thumbnails"]["path"]) / name)
    return jsonify(status="ok", name=name, said=tasks.file_name(f"attachment; filename={file.filename}"))


@site.get("/api/v3/grabtitle")
@gevent_required
def grab_title():
    return jsonify(title="")


@site.post("/api/v3/login")
@csrf.exempt
@gevent_required
def api_login():
    abort(401)


# -- for the tests


def worker_class():
    """What really runs: gunicorn has imported the module of its worker class, and gevent's has patched the process."""
    if "geventwebsocket.gunicorn.workers" in sys.modules:
        return "socketio"
    return "gevent" if monkey.is_module_patched("os") else "sync"


@site.after_app_request
def name_worker(response):
    response.headers["X-Ref-Worker"] = worker_class()
    response.headers["X-Ref-Pid"] = str(os.getpid())
    response.headers["X-Ref-Host"] = socket.gethostname()
    return response


@site.get("/_ref/whoami")
def whoami():
    return jsonify(
        remote_addr=request.remote_addr,
        worker_class=worker_class(),
        pid=os.getpid(),
        release=pathlib.Path.cwd().resolve().name,
        scheme=request.scheme,
        host=request.host,
    )


@site.get("/_ref/sleep")
@limiter.exempt
def sleep():
    """Hold a database connection for s seconds."""
    seconds = min(float(request.args.get("s", 1)), 30)
    models.database.execute_sql("SELECT pg_sleep(%s)", (seconds,))
    return jsonify(slept=seconds)


@site.get("/_ref/gevent/sleep")
@limiter.exempt
@gevent_required
def gevent_sleep():
    """The same, on a route of the async workers."""
    return sleep()


@site.post("/_ref/write")
@limiter.exempt
@csrf.exempt
def write():
    """Store one row, so that a test can compare what was answered with what is there."""
    return jsonify(xid=models.UserMetadata.create(key="ref", value=request.form["value"]).xid)


@site.get("/_ref/fetch")
@limiter.exempt
def fetch():
    """What a worker gets of an address or a file that somebody names: Throat asks for titles and pictures so."""
    try:
        with urllib.request.urlopen(request.args["url"], timeout=5) as answer:
            return jsonify(got=answer.read(1000).decode(errors="replace"))
    except OSError as error:
        return jsonify(refused=str(error))


@socketio.on("connect", namespace="/snt")
def connected():
    emit("uinfo", {"name": getattr(current_user, "name", None), "host": socket.gethostname()})


@socketio.on("subscribe", namespace="/snt")
def subscribe(message):
    join_room(message["target"])


@socketio.on("ping-all", namespace="/snt")
def ping_all(message):
    emit("pong-all", message, broadcast=True)
