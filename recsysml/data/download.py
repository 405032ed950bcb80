"""Fetching files: a quick probe first, a checksum at the end, nothing half-written in between."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import threading
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from recsysml.data.progress import progress
from recsysml.errors import DataError


def reachable(url: str, seconds: float = 2.0) -> bool:
    """Whether the host of `url` (or the proxy that leads to it) accepts a connection within `seconds`.

    Clients retry for half a minute where there is no network, and a name look-up has no time limit of its own:
    hence the thread.
    """
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    answered = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection(address, timeout=seconds).close()
        except OSError:
            return
        answered.set()

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    return answered.is_set()


def download(url: str, target: Path, expected: str | None) -> None:
    """Fetch `url` to `target`, which appears only when it is whole and has the `expected` sha256 (if one is known).

    Raises DataError, in one line, without network, for a failed transfer and for a wrong checksum.
    """
    if not url.startswith(("http://", "https://")):
        raise DataError(f"cannot fetch {url}: only http and https addresses are fetched")
    if not reachable(url):
        raise DataError(f"no network: cannot fetch {url} (to go without, put the file at {target})")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}"
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=20) as answer, temporary.open("wb") as file:
            with progress(f"fetching {target.name}", int(answer.headers.get("Content-Length") or 0)) as advance:
                while chunk := answer.read(1 << 16):
                    file.write(chunk)
                    digest.update(chunk)
                    advance(len(chunk))
            file.flush()
            os.fsync(file.fileno())
        if expected and digest.hexdigest() != expected:
            raise DataError(f"{url} has the checksum {digest.hexdigest()}, expected {expected}: nothing was kept")
        os.replace(temporary, target)
    except OSError as error:
        raise DataError(f"fetching {url} failed: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
