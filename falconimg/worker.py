"""gunicorn's threaded worker, with no thread for a client that is slow.

gunicorn's own (gthread) gives a connection to a thread, which then waits for the
client's bytes; as many silent clients as there are threads stop the server.
Here the event loop does all the waiting:

    accept ──> gather ──whole──> queue ──> a thread ──answer──> flush ──> kept alive ──> gather …
                  │                │                                └──> linger ──> closed
                  └──late, broken──┴──────canned answer─────────────> flush ──┘

A thread reads a request from memory and leaves in memory what the client does
not take at once. gunicorn's parser still judges every byte; here is only found
out where a request ends. It rests on the insides of gunicorn 27.0
(workers/gthread.py), hence the pin in pyproject.toml; with TLS, HTTP/2, uWSGI
or the PROXY protocol it is gunicorn's own worker, unchanged.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import re
import resource
import select
import selectors
import signal
import socket
import threading
import uuid
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from time import monotonic
from typing import Any

from gunicorn import http
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, NoMoreData, ParseException
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker  # type: ignore[attr-defined]

from falconimg import log, metrics
from falconimg.errors import Busy, HeadTooLarge, NotHttp, RequestProblem, RequestTimeout
from falconimg.settings import Settings

MAX_HEAD = 32 * 1024  # gunicorn's parser takes a line of 8 kB and fields of 8 kB; browsers and proxies stay far below
RATE = 100_000  # bytes a second: less than a bad mobile network carries; 10 MB then take 100 s at most
SMALL = 16 * 1024  # what a connection may hold in any case; times 4,096 connections it is less than the room below
ROOM, UPLOADS = 8, 2  # largest documents, or largest uploads, that a worker's connections may hold beyond that
MAX_LINE = 4096  # of a chunk's size with its extensions, or of a trailer
MIN_CHUNK, FREE_CHUNKS = 256, 4096  # smaller ones on average, beyond these, are an attack: each costs the parser 5 µs
PIECE = 64 * 1024  # taken from a socket at once, so that no client keeps the loop
LINGER_SECONDS = 2.0  # for a client to read its answer; closing with bytes unread would reset it
TICK = 0.25  # seconds between two looks at the deadlines
ABANDONED = 1.0  # seconds in the queue, after which a request whose client hung up is not begun
LATE_AT_ONCE = 64  # answered in one look, so that a thousand late ones do not stop the loop
SPARE_FILES = 256  # of the limit of open files, for pictures and the listener
PROBES = 64  # probes that wait for their thread
WORK, LIVE, READY = "work", "live", "ready"  # pools of threads: readiness may wait for a disk, liveness for nothing

# both in linear time, whatever comes
FRAMING = re.compile(rb"^(content-length|transfer-encoding|expect)[ \t]*+:(.*)$", re.I | re.M)
CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})([ \t]*;.*)?\r\n", re.S)
UPLOAD = re.compile(rb"(?:\r\n)?POST [!-~]*/v1/(?:image|info)[ ?]")
PROBE = rb"(?:\r\n)?(?:GET|HEAD) (?:%b)?/(livez|readyz|healthz|health)[ ?]"
ORIGIN = re.compile(rb"^origin[ \t]*+:[ \t]*([!-~]+)[ \t]*\r$", re.I | re.M)
CORS = Settings.from_environ().cors
AUTHORIZATION = re.compile(rb"^authorization[ \t]*+:(.*)$", re.I | re.M)


class Chunks:
    """Where a chunked body ends (RFC 9112, 7.1); what is in it is the parser's affair."""

    def __init__(self) -> None:
        self.size = self.count = self.skip = 0
        self.line = b""
        self.trailers = False

    @property
    def came(self) -> int:
        """The bytes of the body so far."""
        return self.size - max(0, self.skip - 2)  # a chunk ends in two of its own

    def feed(self, data: bytes) -> int | None:
        """The place in these further bytes where the body has ended, or None.

        Raises:
            ValueError: this is no chunked body, or one in crumbs
        """
        at = 0
        while at < len(data):
            if self.skip:
                step = min(self.skip, len(data) - at)
                self.skip, at = self.skip - step, at + step
                continue
            end = data.find(b"\n", at) + 1
            self.line, at = self.line + data[at : end or None], end or len(data)
            if len(self.line) > MAX_LINE:
                raise ValueError
            if end:
                line, self.line = self.line, b""
                if self._ends(line):
                    return at
        return None

    def _ends(self, line: bytes) -> bool:
        if self.trailers:
            return line == b"\r\n"
        match = CHUNK.fullmatch(line)
        self.count += 1
        if not match or self.count > FREE_CHUNKS + self.size // MIN_CHUNK:
            raise ValueError
        size = int(match[1], 16)
        self.size, self.skip, self.trailers = self.size + size, size + 2 if size else 0, not size
        return False


class Gathering:
    """One request's bytes as they come.

    `pieces` are the request's, for the parser; `rest` is what came behind it. A
    request that is not `whole` is broken, or refused whatever follows; no other
    can follow on its connection.
    """

    def __init__(self, limit: int, upload_limit: int, knows: Callable[[str], bool]) -> None:
        self.limit, self.upload_limit, self.knows = limit, upload_limit, knows
        self.head = self.rest = b""
        self.pieces: list[Any] = []  # bytes, or bytearray while it grows
        self.left = 0
        self.chunks: Chunks | None = None
        self.whole = self.expects = False

    def feed(self, data: bytes) -> bool:
        """Whether the parser can have it, with these further bytes.

        Raises:
            HeadTooLarge: its head has no end within MAX_HEAD bytes
        """
        if self.pieces:
            return self._body(data)
        searched = max(0, len(self.head) - 3)
        self.head += data
        end = self.head.find(b"\r\n\r\n", searched) + 4
        if max(end, len(self.head) if end == 3 else 0) > MAX_HEAD:
            raise HeadTooLarge(f"expected a request line and headers of at most {MAX_HEAD} bytes, came more")
        if end == 3:
            # a bare LF will never end it: the parser refuses it now
            self.pieces = [self.head] if self.head.count(b"\n") != self.head.count(b"\r\n") else []
            return bool(self.pieces)
        body, self.head = self.head[end:], self.head[:end]
        self.pieces = [self.head]
        if UPLOAD.match(self.head):
            self.limit = self.upload_limit
        return not self._framed() or self._body(body)

    def _framed(self) -> bool:
        """Find out how its body is framed; whether it is worth waiting for."""
        fields = [(name.lower(), value.strip(b" \t\r").lower()) for name, value in FRAMING.findall(self.head)]
        framing = [field for field in fields if field[0] != b"expect"]
        self.expects = (b"expect", b"100-continue") in fields and b" HTTP/1.1\r\n" in self.head
        if not framing:
            return True
        (name, value), *more = framing
        if name == b"transfer-encoding":
            self.chunks = Chunks()
            return not more and value.rpartition(b",")[2].strip() == b"chunked" and self._known()
        self.left = int(value) if re.fullmatch(rb"[0-9]{1,18}", value) else self.limit + 1
        return not more and self.left <= self.limit and self._known()

    def _known(self) -> bool:
        """Whether it has a token, if one is needed: a stranger's body is not waited for, and held less."""
        return self.knows(b",".join(AUTHORIZATION.findall(self.head)).strip(b" \t\r").decode("latin-1"))

    def _body(self, data: bytes) -> bool:
        end: int | None
        if self.chunks is None:
            end = self.left if self.left <= len(data) else None
            self.left -= len(data)
        else:
            try:
                end = self.chunks.feed(data)
            except ValueError:
                self._add(data)
                return True
        self._add(data[:end])
        if end is not None:
            self.whole, self.rest = True, data[end:]
        # the application refuses it by what has come, not by what a chunk announces
        return self.whole or (self.chunks is not None and self.chunks.came > self.limit)

    def _add(self, data: bytes) -> None:
        """Keep bytes of the body; many small ones would take many times their size, and an empty one means an end."""
        last = self.pieces[-1]
        if isinstance(last, bytearray) and len(last) + len(data) <= PIECE:
            last += data
        elif data:
            self.pieces.append(bytearray(data))


class Room:
    """The bytes that the connections of a worker hold together."""

    def __init__(self, limit: int, most: int) -> None:
        self.limit, self.held, self.lock = limit, 0, threading.Lock()
        self.waiters = threading.Semaphore(most)  # threads that may wait for it

    def take(self, size: int, anyway: bool) -> bool:
        """Whether there is room for so many more; then they are counted."""
        with self.lock:
            fits = anyway or self.held + size <= self.limit
            self.held += size if fits else 0
            return fits

    def give(self, size: int) -> None:
        """Count so many no longer."""
        with self.lock:
            self.held -= size


class Client(socket.socket):
    """A client's socket, whose answers wait in memory: what the system does not take at once is left for the loop."""

    room: Room
    seconds: float

    def __init__(self, accepted: socket.socket, room: Room, seconds: float) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, accepted.detach())
        self.room, self.seconds = room, seconds
        self.unsent: deque[memoryview] = deque()
        self.left = 0
        self.answered = False  # as far as the answer has begun
        self.gone = False  # the client hung up before that

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Send, or keep for later; where there is no room to keep it, wait for the client, but not for long."""
        self.answered = True
        view = memoryview(data)
        if self.flush():
            view = view[self._sent(view) :]
        if not view:
            return
        kept = self.room.take(len(view), anyway=self.left + len(view) <= SMALL)
        self.unsent.append(view)
        self.left += len(view)
        if kept:
            return
        self.room.take(len(view), anyway=True)  # the application holds them already; no more come while this waits
        if not self.room.waiters.acquire(blocking=False):
            self.let_go()
            raise ConnectionResetError(errno.ECONNRESET, "there is no room for its answer, and too many wait")
        try:
            self._wait()
        except OSError:
            self.let_go()
            raise
        finally:
            self.room.waiters.release()

    def let_go(self) -> None:
        """Keep nothing of its answer any more: it ends here."""
        self.room.give(self.left)
        self.unsent.clear()
        self.left = 0

    def flush(self) -> bool:
        """Send what can be sent now; whether nothing is left."""
        while self.unsent:
            sent = self._sent(self.unsent[0])
            self.left -= sent
            self.room.give(sent)
            if sent < len(self.unsent[0]):
                self.unsent[0] = self.unsent[0][sent:]
                return False
            self.unsent.popleft()
        return True

    def _sent(self, view: memoryview) -> int:
        try:
            return self.send(view, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    def _wait(self) -> None:
        end = monotonic() + self.seconds + self.left / RATE
        poll = select.poll()
        poll.register(self, select.POLLOUT)
        while not self.flush():
            if not poll.poll(max(0.0, end - monotonic()) * 1000):
                raise ConnectionResetError(errno.ECONNRESET, "the client does not read its answer")


class Connection(TConn):
    """A client's connection, with the request that is gathered or answered on it."""

    sock: Client
    parser: Any

    def __init__(self, cfg: Any, sock: Client, client: Any, server: Any, gathering: Gathering) -> None:
        super().__init__(cfg, sock, client, server)
        self.gathering = gathering
        self.begun = self.deadline = self.queued = 0.0
        self.held = 0
        self.pool = ""
        self.kept = self.watched = False
        # the worker makes a parser for each request, and its bytes are at hand
        self.initialized = self.data_ready = True


class Hanging:
    """Which workers hang and wait for their replacement, in memory that gunicorn's processes share."""

    SLOTS, WAITS, REPLACED = 256, 1, 2

    def __init__(self) -> None:
        self._marks = mmap.mmap(-1, self.SLOTS)

    def mark(self, age: int) -> int:
        """WAITS, REPLACED, or 0 where this worker does not hang."""
        return self._marks[age % self.SLOTS]

    def begin(self, age: int) -> None:
        """This worker hangs; the next one that boots is its replacement."""
        self._marks[age % self.SLOTS] = self.WAITS

    def replace(self) -> None:
        """A worker has booted: those that waited for one are replaced."""
        for slot, mark in enumerate(self._marks[:]):
            if mark == self.WAITS:
                self._marks[slot] = self.REPLACED

    def end(self, age: int) -> bool:
        """This worker has ended; whether it had hung."""
        hung = self.mark(age) != 0
        self._marks[age % self.SLOTS] = 0
        return hung

    def waits(self) -> bool:
        """Whether any waits for its replacement."""
        return self.WAITS in self._marks[:]


HANGING = Hanging()


class Worker(ThreadWorker):
    """gunicorn's threaded worker, with the loop doing all the waiting for clients."""

    wsgi: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings = Settings.from_environ()
        self.probe = re.compile(PROBE % re.escape(self.settings.prefix.encode()))
        # The largest bodies that the routes take: a larger one is refused by its length, unread.
        self.limits = self.settings.max_body, self.settings.max_upload
        self.room = Room(max(ROOM * self.limits[0], UPLOADS * self.limits[1]), max(1, self.cfg.threads // 2))
        # On what the loop waits besides idle connections, the oldest first, and what to do when it comes too late.
        self.waiting: dict[Connection, Callable[[Connection], None]] = {}
        self.looked = 0.0
        self.counts: Counter[str] = Counter()
        self.counted = 0.0
        self.waste = bytearray(PIECE)
        # Requests with or waiting for each of the pools of threads, and how many may be.
        self.in_hand = {WORK: 0, LIVE: 0, READY: 0}
        self.most = {WORK: self.cfg.threads + self.settings.queue, LIVE: 1 + PROBES, READY: 1 + PROBES}
        self.pools: dict[str, ThreadPoolExecutor] = {}
        self.queue: dict[Connection, Future[bool]] = {}  # those that wait for a thread of WORK, the oldest first
        self.gathers = not (
            self.cfg.is_ssl
            or "h2" in self.cfg.http_protocols
            or self.cfg.protocol != "http"
            or self.cfg.proxy_protocol != "off"
        )

    def init_process(self) -> None:
        """Allow as many open files as connections need, then serve."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY:
            self.worker_connections = max(1, min(self.worker_connections, hard - SPARE_FILES))
            self.max_keepalived = self.worker_connections - self.cfg.threads
        wanted = max(soft, self.worker_connections + SPARE_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        self.pools = {LIVE: started(1), READY: started(1)}
        if not self.gathers:
            what = "TLS, HTTP/2, uWSGI or the PROXY protocol"
            log.logger.warning("slow_clients", detail=f"with {what} set in gunicorn a slow client takes a thread")
        super().init_process()
        for pool in (LIVE, READY):
            self.pools[pool].shutdown(wait=False)

    def get_thread_pool(self) -> ThreadPoolExecutor:
        """The threads that requests are answered on."""
        self.pools[WORK] = started(self.cfg.threads)
        return self.pools[WORK]

    # The loop: each method is called there, and none waits.

    def notify(self) -> None:
        """Tell gunicorn that this worker lives; if a step in it hangs, ask for another, and stop once that serves."""
        super().notify()
        mark = HANGING.mark(self.age)
        if not mark and self.alive and self.wsgi.pipeline.hangs:
            log.logger.error("worker_hangs", detail="a step of an image does not return: it is replaced")
            HANGING.begin(self.age)
            os.kill(self.ppid, signal.SIGTTIN)  # one worker more
        elif mark == HANGING.REPLACED:
            self.alive = False

    def is_parent_alive(self) -> bool:
        """Whether the server that started it is there; without that it stops as if it were told to."""
        self.alive = self.alive and super().is_parent_alive()
        return self.alive

    def wait_for_and_dispatch_events(self, timeout: float | None) -> None:
        """Wait for events, but no longer than to the next look at the deadlines."""
        wait = min(timeout or 0.0, max(0.0, self.looked + TICK - monotonic()))
        super().wait_for_and_dispatch_events(wait if self.waiting or self.counts or self.queue else timeout)
        now = monotonic()
        if now >= self.looked + TICK:
            late = [conn for conn in self.waiting if conn.deadline <= now]
            for conn in late[:LATE_AT_ONCE]:
                self.waiting[conn](conn)
            self.looked = now if len(late) <= LATE_AT_ONCE else 0.0
            self._shorten_queue(now)
        if self.counts and now >= self.counted + 1:
            log.logger.info("clients", **self.counts)
            self.counts.clear()
            self.counted = now

    def set_accept_enabled(self, enabled: bool | None) -> None:
        """Begin or cease to accept; a stopping worker takes those who wait already, and closes its door."""
        if enabled or self.alive:
            super().set_accept_enabled(enabled)
            return
        self.wsgi.pipeline.stop()
        for listener in self.sockets:
            for _ in range(self.cfg.backlog):
                if not self.gathers or not self._accept(listener):
                    break
        super().set_accept_enabled(False)
        for listener in self.sockets:
            listener.close()
        self.sockets = []

    def accept(self, listener: socket.socket) -> None:
        """Take one connection; the other workers may want the next."""
        if self.gathers:
            self._accept(listener)
        else:
            super().accept(listener)

    def _accept(self, listener: socket.socket) -> bool:
        try:
            accepted, address = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self.counts["refused_for_files"] += 1
                self._make_room()
            return False
        self.nr_conns += 1
        sock = Client(accepted, self.room, self.settings.client_seconds)
        self.enqueue_req(Connection(self.cfg, sock, address, listener.getsockname(), self._new_gathering()))
        if self.nr_conns >= self.worker_connections:
            self._make_room()
        return True

    def _new_gathering(self) -> Gathering:
        return Gathering(*self.limits, self.wsgi.knows)

    def _make_room(self) -> None:
        """Close the oldest connection that waits for its client, or else the longest idle."""
        oldest = next(iter(self.waiting), None)
        self.counts["closed_for_room"] += 1
        if oldest is not None:
            self._drop(oldest)
        elif self.keepalived_conns:
            self.keepalived_conns[0].timeout = 0.0
            self.murder_keepalived()

    def enqueue_req(self, conn: TConn) -> None:
        """Gather the next request of a connection that is new, or readable, or brought more than one."""
        if not isinstance(conn, Connection):
            super().enqueue_req(conn)
            return
        rest, conn.gathering = conn.gathering.rest, self._new_gathering()
        conn.begun = monotonic()
        conn.deadline = conn.begun + self.settings.client_seconds
        if not (rest and self._take(conn, rest)) and not self._gather(conn):
            self._wait(conn, selectors.EVENT_READ, self._gather, self._too_late)

    def _gather(self, conn: Connection) -> bool:
        """Take what has come; whether that ends the gathering."""
        try:
            data = conn.sock.recv(PIECE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            self._drop(conn)
            return True
        if data:
            return self._take(conn, data)
        if conn.gathering.pieces:
            self._hand_over(conn)  # the body is short: the application says so
        else:
            self._drop(conn)
        return True

    def _take(self, conn: Connection, data: bytes) -> bool:
        if not self.room.take(len(data), anyway=conn.held + len(data) <= SMALL):
            room = f"room for it in the {self.room.limit} bytes of all unfinished requests"
            self._refuse(conn, Busy(f"expected {room}, came none free"))
            return True
        conn.held += len(data)
        conn.deadline = conn.begun + self.settings.client_seconds + conn.held / RATE
        try:
            if conn.gathering.feed(data):
                self._hand_over(conn)
                return True
        except RequestProblem as problem:
            self._refuse(conn, problem)
            return True
        if conn.gathering.expects:
            conn.gathering.expects = False
            try:
                conn.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            except OSError:
                self._drop(conn)
                return True
        return False

    def _too_late(self, conn: Connection) -> None:
        if conn.held:
            self.counts["late"] += 1
            seconds = f"{self.settings.client_seconds:g} seconds (FALCONIMG_CLIENT_SECONDS)"
            said = f"expected the request within {seconds} and {RATE} bytes a second of a body, came {conn.held} bytes"
            self._refuse(conn, RequestTimeout(said))
        else:
            self.counts["silent"] += 1
            self._drop(conn)

    def _hand_over(self, conn: Connection) -> None:
        """Give the request to a thread; one of their own answers the probes, under any load."""
        self._leave(conn)
        probe = self.probe.match(conn.gathering.head)
        conn.pool = WORK if not probe else READY if probe[1] == b"readyz" else LIVE
        if self.in_hand[conn.pool] >= self.most[conn.pool]:
            self._refuse(conn, Busy(f"expected one of {self.settings.queue} places (FALCONIMG_QUEUE), came none free"))
            return
        self.in_hand[conn.pool] += 1
        conn.queued = monotonic()
        if conn.pool == WORK:
            conn.sock.answered = False
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._look_up, conn))
            conn.watched = True
        answer = self.pools[conn.pool].submit(self.handle, conn)
        if conn.pool == WORK:
            self.queue[conn] = answer
        answer.add_done_callback(lambda done: self.method_queue.defer(self.finish_request, conn, done))

    def _look_up(self, conn: Connection, _sock: socket.socket) -> None:
        """A client that has sent its request sends nothing more, but for the next one, unless it hangs up."""
        self._look_away(conn)
        try:
            ended = not conn.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            ended = False
        except OSError:
            ended = True
        if ended and not conn.sock.answered:
            conn.sock.gone = True
            self.counts["hung_up"] += 1

    def _look_away(self, conn: Connection) -> None:
        if conn.watched:
            conn.watched = False
            self.poller.unregister(conn.sock)

    def _shorten_queue(self, now: float) -> None:
        """Give up those that have waited too long; `finish_request` tells them."""
        while self.queue and (conn := next(iter(self.queue))).queued + self.settings.wait_seconds <= now:
            self.queue.pop(conn).cancel()  # one that runs already is not cancelled

    def finish_request(self, conn: TConn, fs: Future[bool]) -> None:
        """Send the rest of the answer, and keep the connection or close it."""
        if not isinstance(conn, Connection):
            super().finish_request(conn, fs)
            return
        self.queue.pop(conn, None)
        self._look_away(conn)
        self.in_hand[conn.pool] -= 1
        self.room.give(conn.held)
        conn.held = 0
        conn.gathering.pieces.clear()
        conn.parser = None
        if fs.cancelled():
            metrics.waited(monotonic() - conn.queued)
            seconds = f"{self.settings.wait_seconds:g} seconds (FALCONIMG_WAIT_SECONDS)"
            self._refuse(conn, Busy(f"expected a thread to come free within {seconds}, came none"))
            return
        conn.kept = fs.exception() is None and fs.result()
        self._flush(conn)

    def _flush(self, conn: Connection) -> None:
        try:
            flushed = conn.sock.flush()
        except OSError:
            self._drop(conn)
            return
        if flushed:
            self._leave(conn)
            (self._keep if conn.kept else self._linger)(conn)
        elif conn not in self.waiting:
            conn.deadline = monotonic() + self.settings.client_seconds + conn.sock.left / RATE
            self._wait(conn, selectors.EVENT_WRITE, self._flush, self._unread)

    def _unread(self, conn: Connection) -> None:
        self.counts["unread"] += 1
        self._drop(conn)

    def _keep(self, conn: Connection) -> None:
        if conn.gathering.rest:
            self.enqueue_req(conn)
            return
        conn.set_timeout()
        if not self.alive:
            conn.timeout = min(conn.timeout, monotonic() + STOP_KEEPALIVE_LINGER)
        self.keepalived_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_client_socket_readable, conn))

    def _linger(self, conn: Connection) -> None:
        """Say that no more comes, and close when the client has seen it."""
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(conn)
            return
        conn.deadline = monotonic() + LINGER_SECONDS
        self._wait(conn, selectors.EVENT_READ, self._discard, self._drop)

    def _discard(self, conn: Connection) -> None:
        try:
            if conn.sock.recv_into(self.waste, 0, socket.MSG_DONTWAIT):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._drop(conn)

    def _refuse(self, conn: Connection, problem: RequestProblem) -> None:
        self._leave(conn)
        conn.kept = False
        # at once, and not when it ends: the others that are unfinished may want what it held
        conn.gathering.pieces.clear()
        self.room.give(conn.held)
        conn.held = 0
        try:
            _say(conn, problem)
        except OSError:
            self._drop(conn)
        else:
            self._flush(conn)

    def _drop(self, conn: Connection) -> None:
        """Close; the only way in which a connection ends."""
        self._leave(conn)
        self.nr_conns -= 1
        self.room.give(conn.held)
        conn.sock.let_go()
        conn.close()

    def _wait(
        self,
        conn: Connection,
        event: int,
        step: Callable[[Connection], object],
        late: Callable[[Connection], None],
    ) -> None:
        def ready(_sock: socket.socket) -> None:
            # an earlier event of the same round may have closed it
            if conn in self.waiting:
                step(conn)

        self.waiting[conn] = late
        self.poller.register(conn.sock, event, ready)

    def _leave(self, conn: Connection) -> None:
        if self.waiting.pop(conn, None):
            self.poller.unregister(conn.sock)

    # The threads: none of it reads from a socket.

    def handle(self, conn: TConn) -> bool:
        """Answer the gathered request."""
        if isinstance(conn, Connection):
            if conn.sock.gone and monotonic() > conn.queued + ABANDONED:
                return False
            if conn.pool == WORK:
                metrics.waited(monotonic() - conn.queued)
            conn.parser = http.get_parser(self.cfg, conn.gathering.pieces, conn.client)
        return super().handle(conn)

    def handle_request(self, req: Any, conn: TConn) -> bool:
        """Hand it to the application; where its end is unknown, it is the connection's last."""
        if isinstance(conn, Connection):
            req._expected_100_continue = False  # it has been answered, or its body is not wanted
            if not conn.gathering.whole:
                req.force_close()
        answered: bool = super().handle_request(req, conn)
        return answered

    def _keepalive_after(self, conn: TConn, keepalive: bool) -> bool:
        if isinstance(conn, Connection):
            # What the application has not read of the body is only in memory. Where its end was not as the
            # parser has it, no further request can be told.
            try:
                return keepalive and bool(conn.parser.finish_body())
            except (ParseException, NoMoreData):
                return False
        drained: bool = super()._keepalive_after(conn, keepalive)  # type: ignore[misc]  # the stub lacks it
        return drained

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Any) -> None:
        """Answer what gunicorn's parser refuses as all else is answered: its own page echoes 8 kB."""
        if isinstance(client, Client) and req is None and isinstance(exc, ParseException):
            said = f"{type(exc).__name__}: {ascii(str(exc))[1:-1]}"[:100]
            problem: RequestProblem = NotHttp(f"expected HTTP/1.1, came a fault: {said}")
            if isinstance(exc, LimitRequestLine):
                most = f"at most {self.cfg.limit_request_line} bytes (FALCONIMG_MAX_REQUEST_LINE)"
                problem = HeadTooLarge(f"expected a request line of {most}, came {exc.size}")
            elif isinstance(exc, LimitRequestHeaders):
                problem = HeadTooLarge(said)
            client.sendall(_logged(problem, addr))
        else:
            super().handle_error(req, client, addr, exc)


def started(count: int) -> ThreadPoolExecutor:
    """A pool whose threads run: later on one may not be had."""
    pool, all_ = ThreadPoolExecutor(count), threading.Barrier(count + 1)
    for _ in range(count):
        pool.submit(all_.wait, 10)
    all_.wait(10)
    return pool


def _say(conn: Connection, problem: RequestProblem) -> None:
    """Answer with a problem, as the application would, and log it."""
    method = conn.gathering.head.partition(b" ")[0].decode("latin-1")
    origin = ORIGIN.search(conn.gathering.head)
    conn.sock.sendall(_logged(problem, conn.client, method, origin[1].decode("latin-1") if origin else ""))


def _logged(problem: RequestProblem, address: Any, method: str = "", origin: str = "") -> bytes:
    metrics.answered(method, "", problem.status)
    request_id = uuid.uuid4().hex
    level = log.logger.debug if isinstance(problem, RequestTimeout) else log.logger.info
    client = address[0] if isinstance(address, tuple) else ""
    level("refused", request_id=request_id, client=client, status=problem.status, detail=problem.detail)
    return canned(problem, request_id, method != "HEAD", origin if origin in CORS else "*" if "*" in CORS else "")


def canned(problem: RequestProblem, request_id: str, body: bool = True, origin: str = "") -> bytes:
    """The whole answer of a problem, after which the connection ends; scripts of `origin` may read it."""
    told = {"type": problem.type, "title": problem.title, "detail": problem.detail, "status": problem.status}
    text = json.dumps({**told, "request_id": request_id}).encode()
    lines = [
        f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}",
        "Connection: close",
        "Content-Type: application/problem+json",
        f"Content-Length: {len(text)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        f"X-Request-ID: {request_id}",
        *(["Retry-After: 5"] if problem.status == 503 else []),
        *([f"Access-Control-Allow-Origin: {origin}", "Vary: Origin"] if origin else []),
        *(["Access-Control-Expose-Headers: Retry-After, X-Request-ID"] if origin else []),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (text if body else b"")
