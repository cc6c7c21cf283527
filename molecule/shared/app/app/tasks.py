"""What Throat does with pictures, by the names that Python and Pillow had then: both are gone since (Debian 13)."""
import cgi

import gevent
from PIL import Image


def file_name(disposition):
    """The name of a file that another server sends."""
    return cgi.parse_header(disposition)[1].get("filename", "")


def thumbnail(file, path):
    """Keep a picture of 70 pixels."""
    gevent.sleep(0)
    picture = Image.open(file).convert("RGB")
    picture.thumbnail((70, 70), Image.ANTIALIAS)
    picture.save(path, "JPEG")
    # As its storage library leaves files.
    path.chmod(0o664)
