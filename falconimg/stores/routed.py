"""Files and objects side by side: an address (`s3://…`) leads to the store that is allowed for it, others to files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import groupby

from falconimg import log
from falconimg.errors import Forbidden, ImageProblem
from falconimg.job import IfExists
from falconimg.settings import Settings
from falconimg.stores import File, Store, objects
from falconimg.stores.files import Files
from falconimg.stores.globs import Found, Looks
from falconimg.stores.paths import ADDRESS, shown
from falconimg.stores.web import Web


def opened(settings: Settings) -> Store:
    """The store of a server: files below the roots, which are resolved here, once; and objects, where some are allowed.

    Raises:
        SettingsProblem: what objects need is not installed
        OSError: a root cannot be opened
    """
    files = Files(*settings.roots, fsync=settings.fsync)
    log.logger.info("roots", input=str(files.input_root), output=str(files.output_root))
    inputs, outputs = settings.object_stores
    if not (inputs or outputs or settings.http_hosts):
        return files
    if inputs or outputs:
        objects.require_obstore()
    made: dict[str, Store] = {
        base: objects.Objects(base, partial(objects.bucket, base, settings.s3_options(base)))
        for base in (*inputs, *outputs)
    }
    readable = {base: made[base] for base in inputs}
    if settings.http_hosts:
        web = Web(settings.http_hosts, settings.private_hosts, settings.image_seconds)
        readable |= {"http://": web, "https://": web}
    log.logger.info("stores", input=",".join(readable), output=",".join(outputs))
    return Routed(files, readable, {base: made[base] for base in outputs})


class Routed:
    """The Store of several: `inputs` and `outputs` by the address that what is in them begins with."""

    def __init__(self, files: Store, inputs: dict[str, Store], outputs: dict[str, Store]) -> None:
        self.files, self.inputs, self.outputs = files, inputs, outputs

    def check_input(self, path: str) -> str:
        """See Store."""
        return self._input(path).check_input(path)

    def below_root(self, path: str) -> str:
        """See Store."""
        return self._input(path).below_root(path)

    def check_output(self, path: str) -> str:
        """See Store."""
        return self._output(path).check_output(path)

    def size(self, path: str, limit: int) -> int:
        """See Store."""
        return self._input(path).size(path, limit)

    def version(self, path: str, limit: int) -> str:
        """See Store."""
        return self._input(path).version(path, limit)

    def read(self, path: str, limit: int) -> bytes:
        """See Store."""
        return self._input(path).read(path, limit)

    def exists(self, path: str) -> bool:
        """See Store."""
        return self._output(path).exists(path)

    def digest(self, path: str) -> str | None:
        """See Store."""
        return self._output(path).digest(path)

    def publish(self, files: Sequence[File], if_exists: IfExists) -> tuple[str, ...]:
        """See Store, for those of each store that follow one another."""
        left: list[str] = []
        written: list[str] = []
        for store, group in groupby(files, lambda file: self._output(file.path)):
            some = list(group)
            try:
                stayed = store.publish(some, if_exists)
            except ImageProblem as problem:
                problem.written = (*written, *problem.written)
                raise
            left += stayed
            written += [file.path for file in some if file.path not in stayed]
        return tuple(left)

    def find(self, pattern: str, most: int, looks: Looks) -> list[Found]:
        """See Store."""
        return self._input(pattern).find(pattern, most, looks)

    def faults(self) -> list[str]:
        """See Store."""
        return self.files.faults()

    def sweep(self) -> int:
        """See Store."""
        return self.files.sweep()

    def _input(self, path: str) -> Store:
        return self._of(path, self.inputs, "FALCONIMG_INPUT_STORES or FALCONIMG_HTTP_HOSTS")

    def _output(self, path: str) -> Store:
        return self._of(path, self.outputs, "FALCONIMG_OUTPUT_STORES")

    def _of(self, path: str, stores: dict[str, Store], setting: str) -> Store:
        if not ADDRESS.match(path):
            return self.files
        for base, store in stores.items():
            if path.startswith(base):
                return store
        raise Forbidden(f"path: expected an address that {setting} allows, came {shown(path)}")
