"""What is said of a picture by its header: POST /v1/info, GET /v1/info/PATH; no pixel is looked at."""

from __future__ import annotations

from contextlib import ExitStack

import falcon

from falconimg import formats, signing
from falconimg.errors import InvalidRequest
from falconimg.info import describe
from falconimg.resources.base import Resource, asked
from falconimg.resources.image import uploads


class UploadedInfo(Resource):
    """POST /v1/info: of the picture in the body."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with its sides, its format, and so on."""
        asked(req)
        with ExitStack() as held:
            files = uploads(req, self.settings, self.pipeline, held)
            if len(files) > 1:
                raise InvalidRequest(f"expected one picture, came {len(files)}")
            data = files[0].data
            resp.media = describe(formats.probe(data, self.settings.formats), len(data))


class AddressedInfo(Resource):
    """GET /v1/info/PATH: of a file below the input root."""

    addressed = True

    def on_get(self, req: falcon.Request, resp: falcon.Response, path: str) -> None:
        """Answer with its sides, its format, and so on."""
        asked(req, signing.EXPIRES, signing.SIGNATURE)
        store = self.pipeline.store
        store.check_input(path)
        with self.pipeline.file(store.size(path, self.settings.max_file)):
            data = store.read(path, self.settings.max_file)
            resp.media = describe(formats.probe(data, self.settings.formats), len(data))
        resp.set_header("Cache-Control", "no-cache")

    on_head = on_get
