"""Job -> Report: the whole route of a batch, readable from top to bottom.

For each image: read -> probe -> plan -> claim the names -> wait for memory ->
decode -> walk the plan, encoding each leaf -> publish. Images run side by side
on a pool of threads; one that fails, fails alone.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic
from typing import Any, Literal

from falconimg import formats, log
from falconimg._core import Leaf, Plan, PlanError, Shape
from falconimg.budget import Budget, Grant
from falconimg.errors import (
    BadName,
    Busy,
    Conflict,
    Damaged,
    Exists,
    Forbidden,
    ImageProblem,
    Impossible,
    InvalidRequest,
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

Stages = Generator[Future[None], None, None]

STOPPING = "the server was told to stop before this image's turn"
FILE_SIZE = 1.05  # bytes of a file at most, for each byte of its pixels: noise does not get smaller


@dataclass(frozen=True)
class Work:
    """What one image's header says is to be done."""

    data: bytes  # empty where it waits for memory: then the file is read again
    header: formats.Header
    plan: Plan
    left: frozenset[str]  # results that exist already and stay
    peak: int  # bytes that it will take at most; 0 if nothing is to be made


@dataclass
class Turn:
    """One image on its way: what is known of it so far."""

    image: Image
    work: Work | None = None
    grant: Grant | None = None  # what it holds of the budget, or waits for
    notes: dict[Note, None] = field(default_factory=dict)  # in order, each once
    outputs: tuple[Output, ...] = ()
    error: Problem | None = None
    begun: float = field(default_factory=monotonic)

    def note(self, pointer: str, details: Iterable[str]) -> None:
        """Say these sentences of that place, each once."""
        self.notes.update(dict.fromkeys(Note(pointer, detail) for detail in details))


class Names:
    """The results' names that the images of one job have claimed, in the images' order.

    So it never depends on chance which of two images gets a name: the earlier one does.
    """

    def __init__(self, job: Job, store: Store) -> None:
        self._store = store
        self._inputs: dict[str, set[int]] = {}
        for image in job.images:
            self._inputs.setdefault(image.key, set()).add(image.index)
        self._owners: dict[str, int] = {}
        self._next = 0
        self._passed: set[int] = set()
        self._changed = threading.Condition()

    def claim(self, index: int, paths: Iterable[str]) -> None:
        """Wait for the earlier images' claims, then claim these paths.

        Raises:
            Conflict: another image has one of them, or it is another image's input, or it comes twice
            BadName, OutsideRoot: one is no path that the store takes
        """
        with self._changed:
            self._changed.wait_for(lambda: self._next >= index)
            claimed: dict[str, str] = {}
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
                claimed[key] = path
            self._owners.update(dict.fromkeys(claimed, index))

    def passed(self, index: int) -> None:
        """This image claims nothing more: the next one may."""
        with self._changed:
            self._passed.add(index)
            while self._next in self._passed:
                self._passed.remove(self._next)
                self._next += 1
            self._changed.notify_all()


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
                future.result()  # what is unforeseen even for `_guarded` is not swallowed
            self.go_on(*self.waits.pop(future))

    def grants(self) -> list[Grant]:
        """What is asked of the budget."""
        return [future for future in self.waits if isinstance(future, Grant)]

    def close(self) -> None:
        """Let the stages that run end, and begin no other."""
        for _, stages in self.waits.values():
            stages.close()
        wait([future for future in self.waits if not isinstance(future, Grant)])


class Pipeline:
    """What all requests of a process share: the store, the threads, the memory, and when to stop."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self.budget = Budget(settings.budget)
        self.pool = ThreadPoolExecutor(settings.pool, "image")
        self.stop_at = float("inf")
        self._planning = threading.Semaphore(
            settings.pool
        )  # first images whose files are read before they are admitted

    def stop(self) -> None:
        """Begin no more images once the graceful time is over; safe to call from a signal's handler."""
        self.stop_at = min(self.stop_at, monotonic() + self.settings.graceful_seconds)

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self.stop_at != float("inf")

    def run(self, job: Job) -> Report:
        """Everything that the job asks for.

        Raises:
            Busy: there was no memory for its first image in time; nothing was done
        """
        begun = monotonic()
        return report(self.stream(job), begun)

    def stream(self, job: Job) -> Iterator[Outcome]:
        """The images' outcomes, as they finish. Closing the iterator begins no further image.

        Raises:
            Busy: at once, before the first outcome is asked for
        """
        names = Names(job, self.store)
        begun = Begun()
        if job.images:
            turn = Turn(job.images[0])
            with self._planning:
                self._prepare(turn, job, names)
                self._ask(turn, job)
            if (
                turn.grant
                and not wait([turn.grant], self.settings.wait_seconds).done
                and self.budget.give_up(turn.grant)
            ):
                seconds = f"{self.settings.wait_seconds:g} seconds (FALCONIMG_WAIT_SECONDS)"
                raise Busy(f"expected memory to come free within {seconds}, came none")
            # here and not when the outcomes are asked for: what was granted is surely given back
            begun.go_on(turn, self._stages(turn, job, names))
        return self._outcomes(job, names, begun)

    def _outcomes(self, job: Job, names: Names, begun: Begun) -> Iterator[Outcome]:
        # Only so many of a request are on their way at a time, so that the requests' images take turns.
        waiting = iter(job.images[1:])
        failed = False
        try:
            while True:
                while begun.ended:
                    outcome = self._outcome(begun.ended.pop(0), job)
                    failed = failed or outcome.status == "failed"
                    yield outcome
                while len(begun.waits) < self.settings.pool and (image := next(waiting, None)):
                    if failed and job.stop_on_error:
                        yield _not_begun(image)
                    else:
                        turn = Turn(image)
                        begun.go_on(turn, self._stages(turn, job, names))
                if not begun.waits:
                    return
                begun.wait(1)
                if monotonic() > self.stop_at:
                    for grant in begun.grants():
                        self.budget.give_up(grant)
        finally:
            begun.close()

    def _stages(self, turn: Turn, job: Job, names: Names) -> Stages:
        """What an image waits for, one after the other: its plan, its memory, its pixels.

        Only those who have their memory are with the pool for their pixels: were they to wait for it there,
        the ones that hold it could be behind them.
        """
        if not turn.work and not turn.error:
            yield self._submit(self._prepare, turn, job, names)
            self._ask(turn, job)
        if turn.work and turn.grant:
            if not turn.grant.done():
                try:
                    yield turn.grant
                except GeneratorExit:
                    if not self.budget.give_up(turn.grant):
                        self.budget.release(turn.grant)
                    raise
            if turn.grant.cancelled():
                turn.error = Stopping(STOPPING)
            else:
                yield self._submit(self._make, turn, turn.work, turn.grant, job)

    def _submit(self, step: Callable[..., None], *arguments: Any) -> Future[None]:
        return self.pool.submit(contextvars.copy_context().run, step, *arguments)

    def _prepare(self, turn: Turn, job: Job, names: Names) -> None:
        """All that the header tells; whatever it is, the next image may claim its names then."""
        try:
            self._guarded(turn, partial(self._plan, turn, job, names))
        finally:
            names.passed(turn.image.index)

    def _ask(self, turn: Turn, job: Job) -> None:
        """Ask for the memory that the plan needs; the file is not kept while it is waited for."""
        if turn.work and turn.work.peak and not job.dry_run:
            turn.grant = self.budget.ask(turn.work.peak)
            if not turn.grant.done():
                turn.work = replace(turn.work, data=b"")

    def _make(self, turn: Turn, work: Work, grant: Grant, job: Job) -> None:
        """The image's pixels, in the memory that was granted."""
        try:
            self._guarded(turn, partial(self._results, turn, work, job))
        finally:
            self.budget.release(grant)

    def _guarded(self, turn: Turn, step: Any) -> None:
        """Do it; what goes wrong is this image's error."""
        try:
            step()
        except ImageProblem as problem:
            turn.error = problem
        except MemoryError:
            turn.error = OutOfMemory("there was no memory for it")
        except Exception:  # noqa: BLE001  (a fault of ours in one image must not lose its neighbours' report)
            log.logger.exception("image_unforeseen", input=turn.image.input)
            turn.error = Problem("unforeseen; the server's log has it under this request's id")

    def _plan(self, turn: Turn, job: Job, names: Names) -> None:
        """Everything that needs the header alone: read, probe, plan, claim."""
        if monotonic() > self.stop_at:
            raise Stopping(STOPPING)
        image, settings = turn.image, self.settings
        turn.notes.update(dict.fromkeys(image.notes))
        data = self.store.read(image.input, settings.max_file)
        header = formats.probe(data)
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
        peak = _peak(plan, image, data, header) if len(left) < len(plan.leaves) else 0
        if peak > self.budget.size:
            raise TooLarge(f"expected at most {self.budget.size} bytes of work (FALCONIMG_MEMORY), came {peak}")
        turn.work = Work(data, header, plan, left, peak)

    def _existing(self, turn: Turn, plan: Plan, job: Job) -> frozenset[str]:
        """The results that are there already, where the job minds."""
        if job.if_exists == "overwrite":
            return frozenset()
        left = frozenset(leaf.path for leaf in plan.leaves if self.store.exists(leaf.path))
        if left and job.if_exists == "error":
            raise Exists(f"{shown(min(left))} exists, and if_exists is error")
        turn.note(turn.image.pointer, (_left(path) for path in sorted(left)))
        return left

    def _results(self, turn: Turn, work: Work, job: Job) -> None:
        """Decode, walk, encode, publish."""
        image, icc_only = turn.image, formats.Metadata(icc=work.header.metadata.icc)
        deadline = monotonic() + self.settings.image_seconds
        data = work.data or self._read_again(image, work)
        files: list[File] = []
        outputs: list[Output] = []

        def tick() -> None:
            if monotonic() > deadline:
                raise TimedOut(f"expected at most {self.settings.image_seconds:g} seconds (FALCONIMG_IMAGE_SECONDS)")

        def emit(leaf: Leaf, array: Any) -> None:
            if leaf.path in work.left:
                return
            rendition = image.renditions[leaf.route]
            metadata = work.header.metadata if rendition.keep_metadata else icc_only
            options = formats.Options(rendition.quality, rendition.background)
            encoded = formats.encode(rendition.format, array, options, metadata)
            turn.note(f"{rendition.pointer}/output", encoded.notes)
            files.append(File(leaf.path, encoded.data))
            size = leaf.shape.width, leaf.shape.height
            outputs.append(Output(leaf.path, *size, rendition.format.name, len(encoded.data)))

        with errors_as(Impossible, "the operations"):
            work.plan.run(partial(formats.decode, data, work.header), emit, tick)
        tick()
        try:
            left = self.store.publish(files, job.if_exists)
        except ImageProblem as problem:
            turn.outputs = tuple(output for output in outputs if output.path in problem.written)
            raise
        turn.outputs = tuple(output for output in outputs if output.path not in left)
        turn.note(image.pointer, (_left(path) for path in left))

    def _read_again(self, image: Image, work: Work) -> bytes:
        data = self.store.read(image.input, self.settings.max_file)
        if formats.probe(data) != work.header:
            raise Damaged("expected the file as it was planned, came another: it changed meanwhile")
        return data

    def _outcome(self, turn: Turn, job: Job) -> Outcome:
        image, problem = turn.image, turn.error
        ms = round(1000 * (monotonic() - turn.begun), 1)
        outcome = Outcome(image.index, image.input, "done", ms, turn.outputs, tuple(turn.notes))
        if problem:
            log.logger.warning("image_failed", input=image.input, type=problem.type, detail=problem.detail)
            return replace(outcome, status="failed", error=Fault(problem.type, problem.title, problem.detail))
        if job.dry_run and turn.work:
            planned = tuple(
                Output(leaf.path, leaf.shape.width, leaf.shape.height, image.renditions[leaf.route].format.name)
                for leaf in turn.work.plan.leaves
                if leaf.path not in turn.work.left
            )
            return replace(outcome, status="skipped", outputs=planned)
        return outcome if turn.outputs else replace(outcome, status="skipped")


def report(outcomes: Iterable[Outcome], begun: float) -> Report:
    """The whole of what happened, the images in the request's order; `begun` is monotonic time."""
    images = tuple(sorted(outcomes, key=lambda outcome: outcome.index))
    count = {verdict: sum(outcome.status == verdict for outcome in images) for verdict in ("done", "failed", "skipped")}
    status: Literal["done", "partial", "failed"] = "partial" if count["failed"] else "done"
    if images and count["failed"] == len(images):
        status = "failed"
    return Report(status, **count, ms=round(1000 * (monotonic() - begun), 1), images=images)


def _effect(step: Step, shape: Shape, turn: Turn, job: Job) -> Any:
    """What a step does to a picture of that shape; one that it does not allow is skipped where the job says so."""
    try:
        return step.operation.effect(shape, lambda detail: turn.note(step.pointer, (detail,)))
    except Impossible as problem:
        if job.skip_invalid and step.operation.skippable:
            turn.note(step.pointer, (f"skipped: {problem.detail}",))
            return None
        raise


def _left(path: str) -> str:
    return f"{shown(path)} exists and was left as it is"


def _not_begun(image: Image) -> Outcome:
    note = Note(image.pointer, "not begun: an earlier image failed, and on_error is stop")
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


def _peak(plan: Plan, image: Image, data: bytes, header: formats.Header) -> int:
    """The bytes that the image will take at most, by its plan and what the codecs are known to need."""

    def cost(leaf: Leaf) -> tuple[int, int]:
        form = image.renditions[leaf.route].format
        # a format without gray is given three channels
        size = leaf.shape.nbytes * (3 if leaf.shape.channels == 1 and "gray" not in form.keeps else 1)
        return int(size * form.encode_cost), int(size * FILE_SIZE)

    # turning a picture takes a second one
    decoding = max(formats.FORMATS[header.format].decode_cost, 2.0 if header.orientation > 1 else 1.0)
    return len(data) + max(int(decoding * plan.source.nbytes), plan.peak(cost))
