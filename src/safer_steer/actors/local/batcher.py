"""One worker thread that keeps the engine's slots full with whatever the event loop has asked for."""

from __future__ import annotations

import threading
import time

from safer_steer.actors.cores import computing
from safer_steer.actors.local.decode import Engine, Request

QUIET_SECONDS = 0.004
"""An idle engine starts when no request has arrived for this long: the event loop has nothing more to ask."""
PATIENCE_SECONDS = 0.05
"""…or after this long, whatever still arrives. Latecomers join between two tokens."""

COMPANY, PATIENT_STEPS = 4, 6
"""Reading contexts costs a pass over the weights, as a token of every row does: newcomers wait until they are a fourth
as many as the rows being written, or for this many tokens."""


class Batcher:
    """Takes requests from any thread and runs them on its own, at most `max_batch` at a time.

    The thread starts with the first request and ends with `close`. It holds `busy` while the model is in use.
    """

    def __init__(self, engine: Engine, max_batch: int) -> None:
        self._engine, self._max_batch = engine, max_batch
        self._waiting: list[Request] = []
        self._arrival = threading.Condition()
        self._patient = 0
        self._thread: threading.Thread | None = None
        self._closed = False
        self.busy = threading.Lock()

    def submit(self, request: Request) -> None:
        """Queue a request; its future gets the result or the error. Raises RuntimeError after `close`."""
        with self._arrival:
            if self._closed:
                raise RuntimeError("this model was closed")
            self._waiting.append(request)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="local-model", daemon=True)
                self._thread.start()
            self._arrival.notify()

    def close(self) -> None:
        """Let the thread finish what it is writing, then end it. Requests that still wait are cancelled."""
        with self._arrival:
            self._closed = True
            for request in self._waiting:
                request.future.cancel()
            self._waiting.clear()
            self._arrival.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while self._wait():
            with self.busy, computing():
                self._write()

    def _write(self) -> None:
        """Write until nobody waits; whatever goes wrong reaches those whose answers are being written."""
        joining = self._take()
        try:
            with self._engine.writing():
                while joining or self._engine.rows:
                    self._engine.admit(joining)
                    self._engine.step()
                    joining = self._take()
        except Exception as error:  # the boundary between this thread and the coroutines that wait on it
            self._engine.fail(joining, error)

    def _wait(self) -> bool:
        """Sleep until the event loop has asked for something and gone quiet; False when closed."""
        with self._arrival:
            while not self._waiting and not self._closed:
                self._arrival.wait()
            patience = time.monotonic() + PATIENCE_SECONDS
            seen = 0
            while seen < len(self._waiting) < self._max_batch and time.monotonic() < patience:
                seen = len(self._waiting)
                self._arrival.wait(QUIET_SECONDS)
            return not self._closed

    def _take(self) -> list[Request]:
        """The waiting requests that there is room for, unless it pays to wait for company."""
        with self._arrival:
            rows = len(self._engine.rows)
            if len(self._waiting) * COMPANY < rows and self._patient < PATIENT_STEPS:
                self._patient += bool(self._waiting)
                return []
            self._patient = 0
            room = self._max_batch - rows
            taken, self._waiting = self._waiting[:room], self._waiting[room:]
        return [request for request in taken if not request.future.cancelled()]
