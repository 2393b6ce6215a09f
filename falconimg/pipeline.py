"""Job -> Report: the whole route of a batch, readable from top to bottom.

For each image: wait for memory for its file -> read -> probe -> plan -> claim the
names -> wait for memory for its pixels -> decode -> walk the plan, encoding each
leaf -> publish. Up to the plan it is the request's own thread that works, one
image after the other; the pixels of several images are made side by side on the
process's threads. An image that fails, fails alone.
"""

from __future__ import annotations

import contextvars
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic
from typing import Any, Literal

from falconimg import formats, log, metrics, tracing
from falconimg._core import Leaf, Map, Plan, PlanError, Shape
from falconimg.budget import DOCUMENTS, Budget, Grant, most_results
from falconimg.errors import (
    BadName,
    BodyTooLarge,
    Busy,
    Conflict,
    Damaged,
    Exists,
    Forbidden,
    ImageProblem,
    Impossible,
    InvalidRequest,
    Mismatch,
    OutOfMemory,
    OutsideRoot,
    Problem,
    Stopping,
    TimedOut,
    TooLarge,
)
from falconimg.formats.opencv import errors_as
from falconimg.job import Fault, Image, Job, Note, Outcome, Output, Report, Step
from falconimg.settings import Settings
from falconimg.stores import File, Store
from falconimg.stores.paths import shown
from falconimg.threads import Threads

Stages = Generator[Future[None], None, None]

GIVEN_UP = "nobody waits for it any more"
STOPPING = "the server was told to stop before this image's turn"
DOCUMENT_COST = 40  # bytes that a document's values and the job take at most, for each byte of its text
UPLOAD_COST = 3  # bytes for each of an upload: the body, the files in it, and one copy on the way
SMALL_DOCUMENT = 65536  # bytes of a document up to which that is not worth counting
# By what a picture may be shrunk when it is loaded, and what part of its shrunk sides it may have in the end, if not
# just these: then the result is within 38 dB of what area makes of the whole picture (tests/test_quality.py).
FINE = {2: 0.93, 4: 0.7, 8: 0.5}
LEAF = 2000  # bytes that a result takes besides its file: its name, its place in the plan and in the report
HANGING_SECONDS = 2.0  # beyond its time, after which a step is taken for one that does not return


@dataclass(frozen=True)
class Work:
    """What one image's header says is to be done."""

    data: bytes  # empty where it waits for memory: then the file is read again
    header: formats.Header
    plan: Plan
    load: formats.Load
    left: frozenset[str]  # results that exist already and stay
    peak: int  # bytes that it will take at most; 0 if nothing is to be made


@dataclass(eq=False)
class Turn:
    """One image on its way: what is known of it so far."""

    image: Image
    store: Store
    work: Work | None = None
    admitted: bool = False  # it has the memory for its pixels, or needs none
    deadline: float = float("inf")  # of the step that runs; monotonic
    notes: dict[Note, None] = field(default_factory=dict)  # in order, each once
    outputs: tuple[Output, ...] = ()
    error: Problem | None = None
    begun: float = field(default_factory=monotonic)
    stages: metrics.Stages = field(default_factory=metrics.Stages)
    size: int = 0  # bytes of its file that was read

    def note(self, pointer: str, details: Iterable[str]) -> None:
        """Say these sentences of that place, each once."""
        self.notes.update(dict.fromkeys(Note(pointer, detail) for detail in details))

    @property
    def hangs(self) -> bool:
        """Whether a step of it runs on beyond all its time."""
        return monotonic() > self.deadline + HANGING_SECONDS


class Names:
    """The results' names that the images of one job have claimed, each in its turn; at most `most` of them."""

    def __init__(self, job: Job, store: Store, most: int) -> None:
        self._store, self._most = store, most
        self._inputs: dict[str, set[int]] = {}
        for image in job.images:
            self._inputs.setdefault(image.key, set()).add(image.index)
        self._owners: dict[str, int] = {}

    def claim(self, index: int, paths: Iterable[str]) -> None:
        """These paths are that image's.

        Raises:
            Conflict: another image has one of them, or it is another image's input, or it comes twice
            BadName, OutsideRoot: one is no path that the store takes
            TooLarge: the job has too many results
        """
        claimed: set[str] = set()
        for path in paths:
            try:
                key = self._store.check_output(path)
            except Forbidden as problem:
                raise OutsideRoot(problem.detail) from None
            except InvalidRequest as problem:
                raise BadName(problem.detail) from None
            if key in claimed or key in self._owners:
                whose = "this image" if key in claimed else f"image {self._owners[key]}"
                raise Conflict(f"{shown(path)}: expected a path of its own, came that of a result of {whose}")
            if self._inputs.get(key, set()) - {index}:
                raise Conflict(f"{shown(path)}: expected a path that is no other image's input, came one")
            claimed.add(key)
            if len(self._owners) + len(claimed) > self._most:
                most = f"{self._most} outputs of a request (FALCONIMG_MAX_RESULTS, FALCONIMG_MEMORY)"
                raise TooLarge(f"expected at most {most}, came at least {self._most + 1}")
        self._owners.update(dict.fromkeys(claimed, index))


class Begun:
    """The images of one job that are on their way: what each of them waits for, and those that have ended."""

    def __init__(self) -> None:
        self.waits: dict[Future[None], tuple[Turn, Stages]] = {}
        self.ended: list[Turn] = []

    def go_on(self, turn: Turn, stages: Stages) -> None:
        """Bring an image to its next stage."""
        future = next(stages, None)
        if future:
            self.waits[future] = turn, stages
        else:
            self.ended.append(turn)

    def wait(self, seconds: float) -> None:
        """Bring those images further whose stage is done, or none within the time."""
        for future in wait(self.waits, seconds, FIRST_COMPLETED).done:
            if not isinstance(future, Grant):
                future.result()  # what is unforeseen even for `_failing` is not swallowed
            self.go_on(*self.waits.pop(future))

    def grants(self) -> list[Grant]:
        """What is asked of the budget."""
        return [future for future in self.waits if isinstance(future, Grant)]

    def hanging(self) -> list[tuple[Future[None], Turn]]:
        """The images whose step runs on beyond all its time."""
        return [(future, turn) for future, (turn, _) in self.waits.items() if turn.hangs]

    def let_go(self, future: Future[None]) -> None:
        """An image ends here, whatever becomes of its stage."""
        turn, stages = self.waits.pop(future)
        stages.close()
        self.ended.append(turn)

    def close(self) -> None:
        """Let the stages that run end, and begin no other."""
        for _, stages in self.waits.values():
            stages.close()
        running = [future for future in self.waits if not future.cancelled()]
        while wait(running, 1).not_done and not any(turn.hangs for turn, _ in self.waits.values()):
            pass


class Pipeline:
    """What all requests of a process share: the store, the threads, the memory, and when to stop."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self.documents = Budget(settings.budget // DOCUMENTS)
        self.budget = Budget(settings.budget - self.documents.size)
        metrics.BUDGET.set(settings.budget)
        self.threads = Threads(settings.pool)
        self.most_results = most_results(settings)
        self.stop_at = float("inf")
        self.peers_hang: Callable[[], bool] = lambda: False  # whether another worker waits for its replacement
        self._steps: set[Turn] = set()  # the images of which a step runs now

    def stop(self) -> None:
        """Begin no more images once the graceful time is over; safe to call from a signal's handler."""
        self.stop_at = min(self.stop_at, monotonic() + self.settings.graceful_seconds)

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self.stop_at != float("inf")

    @property
    def hangs(self) -> bool:
        """Whether a step of an image runs on beyond all its time: this process should be replaced."""
        return any(turn.hangs for turn in self._steps.copy())

    def faults(self) -> list[str]:
        """What keeps this process from taking requests, a sentence each; for readiness."""
        if self.stopping:
            return ["the server is stopping"]
        if self.hangs or self.peers_hang():
            return ["a step of an image does not return"]  # and the store may not return either
        return self.store.faults()

    def document(self, size: int) -> Grant:
        """Memory for a request's document of `size` bytes and for the job that it describes.

        Raises:
            BodyTooLarge: more than there is at all
            Busy: there was none in time
        """
        return self._held(DOCUMENT_COST, size)

    def upload(self, size: int) -> Grant:
        """Memory for an uploaded body and the copies of its parts; raises as `document` does."""
        return self._held(UPLOAD_COST, size)

    @contextmanager
    def file(self, size: int) -> Iterator[None]:
        """Memory for a file that is read for its header alone.

        Raises:
            TooLarge: more than there is at all
            Busy: there was none in time
        """
        self._affordable(size)
        grant = self._in_time(self.budget.ask(size))
        try:
            yield
        finally:
            grant.give_back()

    def _held(self, cost: int, size: int) -> Grant:
        need = cost * size if size > SMALL_DOCUMENT else 0
        if need > self.documents.size:
            most = self.documents.size // cost
            raise BodyTooLarge(f"expected at most {most} bytes for this FALCONIMG_MEMORY, came {size}")
        return self._in_time(self.documents.ask(need))

    def _in_time(self, grant: Grant) -> Grant:
        if not (grant.done() or wait([grant], self.settings.wait_seconds).done):
            grant.give_back()
            raise self._busy()
        return grant

    def run(self, job: Job, store: Store | None = None, gone: Callable[[], bool] = lambda: False) -> Report:
        """Everything that the job asks for, on a store of its own or else on that of the process.

        No further image is begun once `gone` says that nobody waits for them any more.

        Raises:
            Busy: there was no memory for its first image in time; nothing was done
        """
        begun = monotonic()
        outcomes = sorted(self.stream(job, store, gone), key=lambda outcome: outcome.index)
        return report(tuple(outcomes), Counter(outcome.status for outcome in outcomes), begun)

    def stream(
        self, job: Job, store: Store | None = None, gone: Callable[[], bool] = lambda: False
    ) -> Iterator[Outcome]:
        """The images' outcomes, as they finish; `store` and `gone` as for `run`.

        Closing the iterator begins no further image.

        Raises:
            Busy: at once, before the first outcome is asked for
        """
        store = store or self.store
        names = Names(job, store, self.most_results)
        begun = Begun()
        if job.images:
            # here and not when the outcomes are asked for: so that it can still be refused
            first = Turn(job.images[0], store)
            end = monotonic() + self.settings.wait_seconds
            begun.go_on(first, self._stages(first, job, names))
            while not (first.admitted or begun.ended):
                if monotonic() > end:
                    begun.close()
                    raise self._busy()
                self._wait(begun, end - monotonic())
        return self._outcomes(job, store, names, begun, gone)

    def _busy(self) -> Busy:
        seconds = f"{self.settings.wait_seconds:g} seconds (FALCONIMG_WAIT_SECONDS)"
        return Busy(f"expected memory to come free within {seconds}, came none")

    def _outcomes(
        self, job: Job, store: Store, names: Names, begun: Begun, gone: Callable[[], bool]
    ) -> Iterator[Outcome]:
        waiting = iter(job.images[1:])
        failed = False
        try:
            while True:
                while begun.ended:
                    turn = begun.ended.pop(0)
                    outcome = self._outcome(turn, job)
                    decoded = turn.work.header.size if turn.work and "decode" in turn.stages.spent else (0, 0)
                    metrics.ended(outcome, math.prod(decoded), turn.size)
                    tracing.image(outcome, turn.begun, turn.stages)
                    failed = failed or outcome.status == "failed"
                    yield outcome
                image = next(waiting, None) if self._room(begun) else None
                if image and (why := self._why_not(job, failed, gone)):
                    outcome = _not_begun(image, why)
                    metrics.ended(outcome)
                    yield outcome
                elif image:
                    turn = Turn(image, store)
                    begun.go_on(turn, self._stages(turn, job, names))
                elif begun.waits:
                    self._wait(begun, 1)
                else:
                    return
        finally:
            begun.close()

    @staticmethod
    def _why_not(job: Job, failed: bool, gone: Callable[[], bool]) -> str:
        """Why no further image begins, if so."""
        if failed and job.stop_on_error:
            return "an earlier image failed, and on_error is stop"
        return GIVEN_UP if gone() else ""

    def _room(self, begun: Begun) -> bool:
        """Whether another image of the request may begin.

        Only so many are on their way at a time, so that the requests' images take turns: those that are made and two
        that are ready for their turn, as two may end at once; and only one of them is not yet planned, so that names
        are claimed in order.
        """
        return len(begun.waits) <= self.settings.pool + 1 and all(turn.work for turn, _ in begun.waits.values())

    def _wait(self, begun: Begun, seconds: float) -> None:
        """Go on as far as possible within the time, or a second."""
        begun.wait(min(seconds, 1))
        for future, turn in begun.hanging():
            turn.error = TimedOut(f"{self._time(turn)}, and a step of it does not return")
            log.logger.error("image_hangs", input=log.redacted(turn.image.input))
            self.threads.replace(future)
            begun.let_go(future)
        if monotonic() > self.stop_at:
            for grant in begun.grants():
                grant.give_up()

    def _stages(self, turn: Turn, job: Job, names: Names) -> Stages:
        """What an image waits for, one after the other: memory for its file, memory for its pixels, the pixels.

        Only those who have their memory are with the threads: were they to wait for it there,
        the ones that hold it could be behind them.
        """
        with metrics.IN_PROGRESS.track_inprogress(), self._failing(turn):
            grant = self.budget.ask(self._file_size(turn))
            try:
                yield from _granted(grant)
                turn.work = work = self._planned(turn, job, names)
            finally:
                grant.give_back()
            turn.admitted = not work.peak
            if work.peak:
                grant = self.budget.ask(work.peak)
                try:
                    if not grant.done():  # the file is not kept while memory is waited for
                        turn.work = work = replace(work, data=b"")
                        yield from _granted(grant)
                    turn.admitted = True
                    step = partial(self._make, turn, work, grant, job)
                    del work
                    made = self.threads.submit(partial(contextvars.copy_context().run, step))
                except BaseException:
                    grant.give_back()
                    raise
                try:
                    yield made
                except GeneratorExit:
                    if made.cancel():
                        grant.give_back()
                    raise

    def _make(self, turn: Turn, work: Work, grant: Grant, job: Job) -> None:
        """The image's pixels, in the memory that was granted."""
        try:
            with self._failing(turn), self._timed(turn):
                if monotonic() > self.stop_at:
                    raise Stopping(STOPPING)
                self._results(turn, work, job)
        finally:
            grant.give_back()

    @contextmanager
    def _failing(self, turn: Turn) -> Iterator[None]:
        """What goes wrong within is this image's error."""
        try:
            yield
        except ImageProblem as problem:
            turn.error = problem
        except MemoryError:
            turn.error = OutOfMemory("there was no memory for it")
        except Exception:  # noqa: BLE001  (a fault of ours in one image must not lose its neighbours' report)
            log.logger.exception("image_unforeseen", input=log.redacted(turn.image.input))
            turn.error = Problem("unforeseen; the server's log has it under this request's id")

    @contextmanager
    def _timed(self, turn: Turn) -> Iterator[None]:
        """A step of an image, with its deadline."""
        turn.deadline = monotonic() + self.settings.image_seconds
        self._steps.add(turn)
        try:
            yield
        finally:
            self._steps.discard(turn)
            turn.deadline = float("inf")

    def _time(self, turn: Turn) -> str:
        most = self.settings.image_seconds
        came = most + max(0.0, monotonic() - turn.deadline)
        return f"expected at most {most:g} seconds (FALCONIMG_IMAGE_SECONDS), came {came:.3g}"

    def _file_size(self, turn: Turn) -> int:
        with self._timed(turn):
            size = turn.store.size(turn.image.input, self.settings.max_file)
        self._affordable(size)
        return size

    def _affordable(self, size: int) -> None:
        if size > self.budget.size:
            raise TooLarge(f"expected at most {self.budget.size} bytes of work (FALCONIMG_MEMORY), came {size}")

    def _read(self, turn: Turn) -> bytes:
        """The image's file, if it is the one that was meant."""
        image = turn.image
        data: bytes = turn.stages.timed("read", turn.store.read, image.input, self.settings.max_file)
        turn.size = len(data)
        if image.sha256 and hashlib.sha256(data).hexdigest() != image.sha256:
            raise Mismatch(f"expected the SHA-256 {image.sha256}, came another")  # which is nobody's to know
        return data

    def _planned(self, turn: Turn, job: Job, names: Names) -> Work:
        """Everything that needs the header alone: read, probe, plan, claim."""
        if monotonic() > self.stop_at:
            raise Stopping(STOPPING)
        image, settings = turn.image, self.settings
        turn.notes.update(dict.fromkeys(image.notes))
        with self._timed(turn):
            data = self._read(turn)
            header = formats.probe(data, settings.formats)
            width, height = header.size
            _bounded("side", max(width, height), settings)
            _bounded("pixels", width * height, settings)
            turn.note(f"{image.pointer}/input", formats.notes(header))
            try:
                plan = Plan(
                    Shape(height, width, header.channels, header.depth // 8),
                    [rendition.steps for rendition in image.renditions],
                    partial(_effect, turn=turn, job=job),
                    [rendition.output for rendition in image.renditions],
                    max_outputs=settings.max_outputs,
                    max_pixels=settings.max_pixels,
                    max_side=settings.max_side,
                    max_total=settings.max_output_pixels,
                )
            except PlanError as error:
                raise _beyond(error.kind, error.value, settings) from None
            names.claim(image.index, (leaf.path for leaf in plan.leaves))
            left = self._existing(turn, plan, job)
            load = formats.AS_IT_IS if job.precise else _load(plan, image, header)
            if job.dry_run or len(left) == len(plan.leaves):
                return Work(b"", header, plan, load, left, 0)
            peak = _peak(plan, image, data, header, load)
            self._affordable(peak)
            return Work(data, header, plan, load, left, peak)

    def _existing(self, turn: Turn, plan: Plan, job: Job) -> frozenset[str]:
        """The results that are there already, where the job minds."""
        if job.if_exists == "overwrite":
            return frozenset()
        left = frozenset(leaf.path for leaf in plan.leaves if turn.store.exists(leaf.path))
        if left and job.if_exists == "error":
            raise Exists(f"{shown(min(left))} exists, and if_exists is error")
        turn.note(turn.image.pointer, (_left(path) for path in sorted(left)))
        return left

    def _results(self, turn: Turn, work: Work, job: Job) -> None:
        """Decode, walk, encode, publish."""
        image, icc_only = turn.image, formats.Metadata(icc=work.header.metadata.icc)
        data = work.data or self._read_again(turn, work)
        made: dict[str, tuple[File, Output]] = {}
        notes: dict[str, tuple[str, ...]] = {}

        def tick() -> None:
            if monotonic() > turn.deadline:
                raise TimedOut(self._time(turn))

        def emit(leaf: Leaf, array: Any) -> None:
            if leaf.path in work.left:
                return
            rendition = image.renditions[leaf.route]
            metadata = work.header.metadata if rendition.keep_metadata else icc_only
            options = formats.Options(rendition.quality, rendition.background)
            encoded = turn.stages.timed("encode", formats.encode, rendition.format, array, options, metadata)
            notes[leaf.path] = encoded.notes
            size = leaf.shape.width, leaf.shape.height
            output = Output(leaf.path, *size, rendition.format.name, len(encoded.data))
            made[leaf.path] = File(leaf.path, encoded.data), output

        with errors_as(Impossible, "the operations"):
            decode = partial(turn.stages.timed, "decode", formats.load, data, work.header, work.load)
            work.plan.run(decode, emit, tick)
        tick()
        for leaf in work.plan.leaves:  # in the request's order, which is not that in which they were made
            turn.note(f"{image.renditions[leaf.route].pointer}/output", notes.get(leaf.path, ()))
        inorder = [made[leaf.path] for leaf in work.plan.leaves if leaf.path in made]
        try:
            files = [file for file, _ in inorder]
            left = turn.stages.timed("publish", turn.store.publish, files, job.if_exists)
        except ImageProblem as problem:
            turn.outputs = tuple(output for _, output in inorder if output.path in problem.written)
            raise
        turn.outputs = tuple(output for _, output in inorder if output.path not in left)
        turn.note(image.pointer, (_left(path) for path in left))

    def _read_again(self, turn: Turn, work: Work) -> bytes:
        data = self._read(turn)
        if formats.probe(data, self.settings.formats) != work.header:
            raise Damaged("expected the file as it was planned, came another: it changed meanwhile")
        return data

    def _outcome(self, turn: Turn, job: Job) -> Outcome:
        image, problem = turn.image, turn.error
        ms = round(1000 * (monotonic() - turn.begun), 1)
        stages = turn.stages.seconds()
        outcome = Outcome(image.index, image.input, "done", ms, turn.outputs, tuple(turn.notes), stages=stages)
        if problem:
            log.logger.warning(
                "image_failed", input=log.redacted(image.input), type=problem.type, detail=problem.detail
            )
            return replace(outcome, status="failed", error=Fault(problem.type, problem.title, problem.detail))
        if job.dry_run and turn.work:
            planned = tuple(
                Output(leaf.path, leaf.shape.width, leaf.shape.height, image.renditions[leaf.route].format.name)
                for leaf in turn.work.plan.leaves
                if leaf.path not in turn.work.left
            )
            return replace(outcome, status="skipped", outputs=planned)
        return outcome if turn.outputs else replace(outcome, status="skipped")


def report(images: tuple[Outcome, ...], counts: Mapping[str, int], begun: float) -> Report:
    """The whole of what happened; `counts` are the outcomes' statuses, `begun` is monotonic time."""
    done, failed, skipped = (counts.get(verdict, 0) for verdict in ("done", "failed", "skipped"))
    status: Literal["done", "partial", "failed"] = "partial" if failed else "done"
    if failed and not done + skipped:
        status = "failed"
    return Report(status, done, failed, skipped, round(1000 * (monotonic() - begun), 1), images)


def _granted(grant: Grant) -> Stages:
    """Wait for it.

    Raises:
        Stopping: it was given up
    """
    if not grant.done():
        yield grant
    if grant.cancelled():
        raise Stopping(STOPPING)


def _effect(step: Step, shape: Shape, turn: Turn, job: Job) -> Any:
    """What a step does to a picture of that shape; one that it does not allow is skipped where the job says so."""
    try:
        effect = step.operation.effect(shape, lambda detail: turn.note(step.pointer, (detail,)))
    except Impossible as problem:
        if job.skip_invalid and step.operation.skippable:
            turn.note(step.pointer, (f"skipped: {problem.detail}",))
            return None
        raise
    if isinstance(effect, Map):
        make = partial(turn.stages.timed, step.operation.name, effect.make)
        return Map(effect.shape, make, effect.workspace, effect.needs, effect.whole)
    return effect


def _left(path: str) -> str:
    return f"{shown(path)} exists and was left as it is"


def _not_begun(image: Image, why: str) -> Outcome:
    note = Note(image.pointer, f"not begun: {why}")
    return Outcome(image.index, image.input, "skipped", 0.0, notes=(note,))


LIMITS = {
    "side": ("max_side", "pixels a side"),
    "pixels": ("max_pixels", "pixels"),
    "outputs": ("max_outputs", "outputs"),
    "total": ("max_output_pixels", "pixels in all outputs"),
}


def _bounded(kind: str, value: int, settings: Settings) -> None:
    if value > getattr(settings, LIMITS[kind][0]):
        raise _beyond(kind, value, settings)


def _beyond(kind: str, value: int, settings: Settings) -> TooLarge:
    name, unit = LIMITS[kind]
    return TooLarge(f"expected at most {getattr(settings, name)} {unit} (FALCONIMG_{name.upper()}), came {value}")


def _load(plan: Plan, image: Image, header: formats.Header) -> formats.Load:
    """How the image is to be decoded for this plan, which is told so: no larger than is needed."""
    needs = plan.needs()
    most = formats.FORMATS[header.format].loads(header, needs is not None)
    width, height = header.size
    shrink = most.shrink
    planes = most.planes and plan.halves()
    planes = planes and all(
        rendition.format.takes_planes and all(step.operation.planes for step in rendition.steps)
        for rendition in image.renditions
    )
    while shrink > 1 and not (needs and _fine(needs, (height, width), shrink, header.orientation)):
        shrink //= 2
    if shrink > 1:
        plan.load(shrink)
    return formats.Load(shrink, planes)


def _fine(needs: tuple[int, int], size: tuple[int, int], shrink: int, orientation: int) -> bool:
    """Whether a picture of that (height, width) may be shrunk so, when so many of its rows and columns are needed."""
    if orientation > 1 and any(side % shrink for side in size):
        return False  # turned, what is only part of a pixel would come first
    exactly = all(need * shrink == side for need, side in zip(needs, size, strict=True))
    return exactly or all(need * shrink <= FINE[shrink] * side for need, side in zip(needs, size, strict=True))


def _peak(plan: Plan, image: Image, data: bytes, header: formats.Header, load: formats.Load) -> int:
    """The bytes that the image will take at most, by its plan and what the codecs are known to need."""

    def cost(leaf: Leaf) -> tuple[int, int]:
        rendition = image.renditions[leaf.route]
        form, metadata = rendition.format, header.metadata if rendition.keep_metadata else header.metadata[:1]
        # a format without gray is given three channels
        size = leaf.shape.nbytes * (3 if leaf.shape.channels == 1 and "gray" not in form.keeps else 1)
        during, file = form.encode_peak(size, leaf.shape.channels, rendition.quality)
        blocks = sum(len(block) for block in metadata if block)
        return during + 3 * blocks, file + blocks + LEAF

    blocks = sum(len(block) for block in header.metadata if block)
    # turning a picture takes a second one; codecs are given copies of the file's parts
    picture = header.shrunk(load.shrink).nbytes
    decoding = max(formats.FORMATS[header.format].load_peak(header, load), (1 + (header.orientation > 1)) * picture)
    return len(data) + 2 * blocks + max(len(data) + decoding, plan.peak(cost))
