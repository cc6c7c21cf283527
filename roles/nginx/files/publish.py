"""Put the static files of a release where nginx serves them.

Usage: publish.py add <path> <release> <parcel>    (parcel: a tar archive of the release's directory of static files)
       publish.py switch <path> <release>

What nginx serves is <path>, a link that leads from one release to the next at once. Beside it are
    releases/   of a release all its files, whole before the link leads there, and a list of its bundles, with the time when it was last known to serve
    gen/        the bundles of all releases, which is the directory "gen" of each; their names carry a hash of their content

nginx makes the ETag of a file's time and size. The time is made from the content, so that another content has another ETag, and the same content the same one
on each web server and in each release.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import time

# Seconds that bundles stay after the last release that had them served: pages are open that long.
KEPT = 30 * 86400


def stamp(path: pathlib.Path) -> None:
    """Make a file's time from its content."""
    seconds = int(hashlib.sha1(path.read_bytes()).hexdigest()[:7], 16)
    os.utime(path, (seconds, seconds))


def files(directory: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def listed(releases: pathlib.Path, release: str) -> pathlib.Path:
    return releases / f"{release}.bundles"


def add(live: pathlib.Path, release: str, parcel: str) -> None:
    """Add a release's files beside those that are served, and its bundles to them."""
    tree, bundles, making = live.parent / "releases" / release, live.parent / "gen", live.parent / "releases" / f".{release}"
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    subprocess.run(["tar", "--extract", "--file", parcel, "--directory", making], check=True)
    for path in files(making):
        stamp(path)
    names = [path.relative_to(making / "gen") for path in files(making / "gen")]
    listed(tree.parent, release).write_text("".join(f"{name}\n" for name in names))
    for name in names:
        (bundles / name).parent.mkdir(parents=True, exist_ok=True)
        (making / "gen" / name).replace(bundles / name)
    shutil.rmtree(making / "gen", ignore_errors=True)
    (making / "gen").symlink_to("../../gen")
    shutil.rmtree(tree, ignore_errors=True)
    making.rename(tree)


def switch(live: pathlib.Path, release: str, now: float) -> None:
    """Serve a release's files, and remove those of others but the bundles that a page may still ask for."""
    if live.is_dir() and not live.is_symlink():
        sys.exit(f"nginx_static_dir: {live} is a directory, but with nginx_static_release a link is made there; name a path where nothing is")
    releases, bundles = live.parent / "releases", live.parent / "gen"
    if live.is_symlink() and (before := listed(releases, live.readlink().name)).exists():
        os.utime(before, (now, now))
    link = live.with_name(f".{live.name}")
    link.unlink(missing_ok=True)
    link.symlink_to(f"releases/{release}")
    link.replace(live)
    for path in releases.iterdir():
        if path.is_dir() and path.name != release:
            shutil.rmtree(path)
    lists = set(releases.glob("*.bundles"))
    old = {path for path in lists if path.stat().st_mtime < now - KEPT} - {listed(releases, release)}
    kept = {name for path in lists - old for name in path.read_text().splitlines()}
    for path in old:
        for name in set(path.read_text().splitlines()) - kept:
            (bundles / name).unlink(missing_ok=True)
        path.unlink()


if __name__ == "__main__":
    os.umask(0o022)
    action, path, *rest = sys.argv[1:]
    if action == "add":
        add(pathlib.Path(path), *rest)
    else:
        switch(pathlib.Path(path), *rest, now=time.time())
