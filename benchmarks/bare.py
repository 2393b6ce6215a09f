"""A bare Falcon route: reads the JSON of POST /items/ and answers it, reads the inputs and writes them as outputs."""

from __future__ import annotations

from pathlib import Path

import falcon

from benchmarks.disk import put


class Items:
    """The one resource."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Copy."""
        batch = req.get_media()
        for image in batch["images"]:
            put(Path(image["output"]), Path(image["input"]).read_bytes())
        resp.media = batch


app = falcon.App()
app.add_route("/items/", Items())
