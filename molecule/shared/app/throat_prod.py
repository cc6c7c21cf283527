"""What gunicorn serves: throat_prod:app.

Like Throat, it learns from gevent's monkey patching which kind of worker it runs in, and makes gevent-only
routes fail loudly on a sync worker.
"""
from gevent import monkey

if monkey.is_module_patched("os"):
    from psycogreen.gevent import patch_psycopg

    patch_psycopg()
else:
    import app.views

    class SyncWorker:
        """Stands where the views expect gevent."""

        def __getattr__(self, name):
            raise RuntimeError(f"Load balancer misconfiguration: gevent.{name} called from a sync worker")

    app.views.gevent = SyncWorker()

from app import create_app

app = create_app()
