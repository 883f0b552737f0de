"""HTTP to the servers of one model, by httpx: requests under way together, each with one limit for its whole
answer, a largest body, four tries, and the server's own words in what is raised.

A reply is bad when it is not whole, too large, no JSON or not of its shape (`replies.py`), or of status 408,
429, 3xx or 5xx: it is asked again, then the server is lost (exit 8) by name. Any other 4xx is the server's
no, which whoever asked puts into a sentence.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ValidationError

from pipeline.errors import RecipeError, WorkerLost, printable

TRIES = 4
SECONDS = 600.0  #: one whole answer
MAX_BODY = 64 << 20  #: the log-probabilities of 128 k tokens take 13 MB
Shape = TypeVar("Shape", bound=BaseModel)


class Refused(Exception):
    """The server understood and said no (HTTP 4xx)."""


class ServerLost(WorkerLost):
    """A server that gives no good answer. `code`: the last HTTP status, 0 where there was none."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class _BadReply(Exception):
    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


def words_of(body: bytes) -> str:
    """What an error's body says to a person."""
    text = body[:100_000].decode("utf-8", "replace")
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        return printable(text)
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(key):
            found = found[key]
    return printable(found if isinstance(found, str) else json.dumps(found))


def shown(url: str) -> str:
    """An address without user and password."""
    return url.replace(f"{urlsplit(url).netloc.rpartition('@')[0]}@", "") if "@" in url else url


def _end(loop: asyncio.AbstractEventLoop, client: httpx.AsyncClient) -> None:
    """What is under way is dropped, and the thread ends."""

    async def closed() -> None:
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await client.aclose()
        loop.stop()

    asyncio.run_coroutine_threadsafe(closed(), loop)


class Connection:
    """The servers of one model."""

    def __init__(
        self,
        name: str,
        servers: Sequence[str],
        *,
        api_key_env: str = "",
        max_rows: int = 512,
        seconds: float = SECONDS,
        pause: float = 1.0,
    ) -> None:
        """Opens nothing yet.

        Raises:
            RecipeError: no server, one that is no http address, or a key that is not in the environment.
        """
        self.name, self.seconds, self._pause = name, seconds, pause
        if not servers:
            raise RecipeError(f"model {name}: engine.server names no server")
        self.urls = [url.rstrip("/").removesuffix("/v1") for url in servers]
        for url in self.urls:
            if not url.startswith(("http://", "https://")) or not urlsplit(url).hostname:
                raise RecipeError(
                    f"model {name}: engine.server: {printable(shown(url))}: not an http address"
                )
        self._key = os.environ.get(api_key_env, "").strip() if api_key_env else ""
        if api_key_env and (not self._key or not self._key.isascii() or not self._key.isprintable()):
            raise RecipeError(
                f"model {name}: engine.api_key_env: {api_key_env} is not set, or holds no key in this "
                "environment"
            )
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, name=f"servers of {name}", daemon=True)
        thread.start()
        self._slots = asyncio.Semaphore(max_rows)
        limits = httpx.Limits(max_connections=max_rows, max_keepalive_connections=64)
        self._client = httpx.AsyncClient(timeout=seconds, limits=limits, follow_redirects=False)
        self.close = weakref.finalize(self, _end, self._loop, self._client)

    def ask(self, url: str, path: str, shape: type[Shape] | None, body: dict[str, Any] | None = None) -> Any:
        """One answer of `shape`; None: any text will do, and None comes back.

        Raises:
            Refused: HTTP 4xx. ServerLost: no good answer in four tries.
        """
        return self.start(url, path, shape, body).result()

    def start(
        self,
        url: str,
        path: str,
        shape: type[Shape] | None,
        body: dict[str, Any] | None = None,
        wrong: Callable[[Any], str] | None = None,
    ) -> Future[Any]:
        """The same, under way. wrong: what is wrong with an answer of the right shape, "" for nothing."""
        return asyncio.run_coroutine_threadsafe(self._asked(url, path, shape, body, wrong), self._loop)

    async def _asked(self, url: str, path: str, shape: Any, body: dict[str, Any] | None, wrong: Any) -> Any:
        last, code = "", 0
        async with self._slots:
            for attempt in range(TRIES):
                try:
                    async with asyncio.timeout(self.seconds):  # httpx's own limits begin anew with each byte
                        answer = await self._once(url + path, shape, body)
                    said = wrong(answer) if wrong else ""
                    if not said:
                        return answer
                    last, code = printable(said), 200
                except TimeoutError:
                    last, code = f"no whole answer within {self.seconds:g} s", 0
                except _BadReply as problem:
                    last, code = str(problem), problem.code
                except (httpx.HTTPError, httpx.InvalidURL, OSError) as problem:
                    last, code = printable(str(problem)) or type(problem).__name__, 0
                if attempt + 1 < TRIES:
                    await asyncio.sleep(self._pause * 2**attempt)
        raise ServerLost(
            f"model {self.name}: server {shown(url)} gives no good answer to {path} after {TRIES} tries: "
            f"{printable(self._hidden(last), 600)}",
            code,
        )

    async def _once(self, address: str, shape: Any, body: dict[str, Any] | None) -> Any:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        method = "GET" if body is None else "POST"
        async with self._client.stream(method, address, content=data, headers=headers) as answer:
            content = bytearray()
            async for piece in answer.aiter_bytes():
                content += piece
                if len(content) > MAX_BODY:
                    raise _BadReply(f"an answer of more than {MAX_BODY >> 20} MiB", answer.status_code)
            code = answer.status_code
            if 300 <= code < 400:
                raise _BadReply(f"HTTP {code}: it redirects to {answer.headers.get('location')}", code)
        return self._judged(code, bytes(content), shape)

    def _judged(self, code: int, content: bytes, shape: Any) -> Any:
        if not 200 <= code < 300:
            said = f"HTTP {code}: {self._hidden(words_of(content)) or 'nothing more'}"
            if 400 <= code < 500 and code not in (408, 429):
                raise Refused(said)
            raise _BadReply(said, code)
        if shape is None:
            return None
        try:
            return shape.model_validate_json(content)
        except ValidationError as problem:
            first = problem.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            said = words_of(content) or "nothing"
            raise _BadReply(
                f"{printable(where)}: {printable(first['msg'], 120)}; it said: {said}", code
            ) from None

    def _hidden(self, text: str) -> str:
        """Servers quote what they were sent; a key is no one's to read."""
        return text.replace(self._key, "***") if self._key else text
