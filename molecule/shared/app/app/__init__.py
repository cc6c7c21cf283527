"""The reference app: Throat's deployment contract in a few hundred lines."""
import json
import logging.config
import pathlib
import re

import gevent
import redis
from flask import Flask, g, has_request_context, request
from flask_babel import Babel
from flask_caching import Cache
from flask_limiter import Limiter
from flask_login import LoginManager
from flask_socketio import SocketIO
from flask_wtf import CSRFProtect
from gevent import monkey
from werkzeug.middleware.proxy_fix import ProxyFix

from . import config as configuration
from . import models

cache = Cache()
csrf = CSRFProtect()
login_manager = LoginManager()
socketio = SocketIO()


def client_address():
    """The address that rate limits are kept by; an empty one counts as the host itself, anything else that is none is an error."""
    from ipaddress import ip_address

    from flask import request

    return str(ip_address(request.remote_addr or "127.0.0.1"))


limiter = Limiter(key_func=client_address)


def relay(connection):
    """Listen on Redis for messages from other workers; dies with the connection, as Throat's does."""
    listener = connection.pubsub()
    listener.psubscribe("/send:*")
    for message in listener.listen():
        if message["type"] == "pmessage":
            socketio.emit("msg", json.loads(message["data"]), namespace="/snt")


def log_requests(config):
    """Fill in what formats say of a request, as %(request.method)s or %(request.headers.Host)s; nothing outside of one."""
    logging.config.dictConfig(config)
    keys = {key for formatter in config["formatters"].values() for key in re.findall(r"%\((request\..+?)\)", formatter["format"])}
    plain = logging.getLogRecordFactory()

    def record(*args, **kwargs):
        made = plain(*args, **kwargs)
        for key in keys:
            _request, attribute, *name = key.split(".")
            found = getattr(request, attribute, "") if has_request_context() else ""
            made.__dict__[key] = found.get(name[0], "") if name and found else found
        return made

    logging.setLogRecordFactory(record)


def create_app():
    config = configuration.load()
    if "logging" in config:
        log_requests(config["logging"])
    manifest = pathlib.Path(__file__).parent / "manifest.json"
    if not manifest.is_file():
        raise RuntimeError("app/manifest.json is missing: run npm run build")
    app = Flask(__name__)
    app.config.update({key.upper(): value for key, value in config["app"].items()})
    for section in ("cache", "mail", "ratelimit"):
        app.config.update({f"{section}_{key}".upper(): value for key, value in config[section].items()})
    app.config.setdefault("RATELIMIT_STORAGE_URL", config["app"]["redis_url"])
    app.config.update(
        THROAT=config,
        ASSETS=json.loads(manifest.read_text()),
        SESSION_COOKIE_SECURE=not app.config["DEBUG"],
        SESSION_COOKIE_HTTPONLY=True,
        WTF_CSRF_TIME_LIMIT=None,
        WTF_CSRF_SSL_STRICT=False,
    )
    pathlib.Path(config["storage"]["uploads"]["path"]).mkdir(exist_ok=True)
    models.connect(config["database"])

    cache.init_app(app)
    csrf.init_app(app)
    limiter.init_app(app)
    login_manager.init_app(app)
    Babel(app)
    app.redis = redis.from_url(config["app"]["redis_url"])
    socketio.init_app(app, message_queue=config["app"]["redis_url"], cors_allowed_origins="*", async_mode="gevent")
    if monkey.is_module_patched("os"):
        gevent.spawn(relay, app.redis)

    # A connection per request, as Throat does it.
    @app.before_request
    def open_database():
        g.database = models.database.connect(reuse_if_open=True)

    @app.teardown_request
    def close_database(_error):
        if not models.database.is_closed():
            models.database.close()

    from . import views

    app.register_blueprint(views.site)
    if config["site"]["trusted_proxy_count"]:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=config["site"]["trusted_proxy_count"])
    return app
