"""Images as ready-made pieces of a request: read, checked and encoded once, in a thread, within a byte budget."""

from __future__ import annotations

import asyncio
import base64
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from safer_steer.actors.endpoint.body import image_fragment
from safer_steer.dialogue import ImageRef

READERS = 2
"""Threads that read and encode. Both are mostly the C library's work, outside the interpreter's lock."""


class ImageFragments:
    """`ImageRef → bytes`, least recently used first out once `budget` bytes are kept.

    Requests that want the same image at the same time wait for one encoding. `read` gives an image's bytes and
    raises `ImageError`: an image that cannot be read is an error, never a text-only request.
    """

    def __init__(self, read: Callable[[ImageRef], bytes], budget: int = 64 * 2**20) -> None:
        self._read, self._budget = read, budget
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0
        self._encoding: dict[str, asyncio.Future[bytes]] = {}
        self._threads: ThreadPoolExecutor | None = None

    @property
    def size(self) -> int:
        """Bytes kept now."""
        return self._size

    async def get(self, ref: ImageRef) -> bytes:
        """The content part of `ref`; raises `ImageError`."""
        kept = self._kept.get(ref.sha256)
        if kept is not None:
            self._kept.move_to_end(ref.sha256)
            return kept
        pending = self._encoding.get(ref.sha256)
        if pending is None:
            pending = self._start(ref)
        return await asyncio.shield(pending)

    def _start(self, ref: ImageRef) -> asyncio.Future[bytes]:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="images")
        pending = asyncio.get_running_loop().run_in_executor(self._threads, self._encode, ref)
        self._encoding[ref.sha256] = pending
        pending.add_done_callback(lambda done: self._finish(ref.sha256, done))
        return pending

    def _encode(self, ref: ImageRef) -> bytes:
        return image_fragment(ref.media_type, base64.b64encode(self._read(ref)))

    def _finish(self, digest: str, done: asyncio.Future[bytes]) -> None:
        self._encoding.pop(digest, None)
        if done.cancelled() or done.exception() is not None:
            return
        fragment = done.result()
        self._kept[digest] = fragment
        self._size += len(fragment)
        while self._size > self._budget:
            _, dropped = self._kept.popitem(last=False)
            self._size -= len(dropped)

    def close(self) -> None:
        """Forget everything and end the threads."""
        self._kept.clear()
        self._size = 0
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None
