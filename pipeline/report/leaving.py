"""What of a run's records may leave this machine: texts without local paths, users, hosts or addresses.

Rows are what models wrote and are left as they are. Records (JSON, YAML, cards) name folders and servers of
whoever ran it; each local path becomes its last part, each address `http://server`, user and host names go.
A sealed document is sealed anew. Hashes in manifests are of the files as they stood here.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import shutil
import socket
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.recipe.shape import Recipe
from pipeline.store.documents import seal

TEXTS = (".json", ".jsonl", ".yaml", ".yml", ".md", ".txt", ".jinja")
#: an absolute path, or one from a home folder; the scheme of an address stands before its `//`
_PATH = re.compile(r"(?<![\w/.:~-])~?(?:/[\w.@+,=~-]+){2,}/?")


class Private:
    """The names that do not leave."""

    def __init__(self, recipe: Recipe) -> None:
        urls = [url for model in recipe.models.values() for url in model.engine.server]
        self.hosts = sorted({urlsplit(url).netloc for url in urls if urlsplit(url).netloc}, key=len)[::-1]
        bases = [model.base for model in recipe.models.values()]
        #: folders as the recipe writes them, relative ones too
        self.folders = sorted((b for b in bases if "/" in b and Path(b).expanduser().is_dir()), key=len)[::-1]
        told = set(re.findall(r"\w+", json.dumps(recipe.resolved())))
        mine = (name for name in _own_names() if len(name) >= 4 and name not in told)
        self.names = sorted(mine, key=lambda name: (-len(name), name))  # the whole before its part

    def without(self, text: str) -> str:
        """A text as it may leave."""
        for host in self.hosts:
            text = text.replace(host, "server")
        for folder in self.folders:
            text = text.replace(folder, Path(folder).name)
        for own, short in ((Path.cwd(), ""), (Path.home(), "~/")):  # a pattern would end at a space in them
            if len(own.parts) > 1:
                text = text.replace(f"{own}/", short)
        text = _PATH.sub(_shortened, text)
        for name in self.names:
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "someone", text)
        return text


def _own_names() -> set[str]:
    names = {socket.gethostname(), socket.gethostname().partition(".")[0]}
    with contextlib.suppress(OSError, KeyError, ImportError):  # an account without a name
        names.add(getpass.getuser())
    return {*names, Path.home().name} - {"", "root", "localhost"}


def _shortened(found: re.Match[str]) -> str:
    """A path's last part, where its first folder stands on this disk; other texts with slashes are kept."""
    path = found[0].rstrip("/")
    first = "/" + path.lstrip("~").split("/")[1]
    return path.rsplit("/", 1)[1] if path.startswith("~") or os.path.isdir(first) else found[0]


def leave(folder: Path, names: Iterable[str], target: Path, private: Private) -> int:
    """Lay out at `target` what leaves of `names` in `folder`: links, and texts of their own where something
    had to go. Returns how many of those."""
    changed = 0
    for name in names:
        source, place = folder / name, target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        text = source.read_text(encoding="utf-8", errors="surrogateescape") if source.suffix in TEXTS else ""
        told = private.without(text)
        if told == text:
            try:
                os.link(source, place)
            except OSError:  # another disk, or one without links
                shutil.copyfile(source, place)
            continue
        changed += 1
        if source.suffix == ".json" and '"sealed"' in told:
            told = seal(json.loads(told)).decode()
        place.write_text(told, encoding="utf-8", errors="surrogateescape")
    return changed
