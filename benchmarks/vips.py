"""A libvips server: one picture a request, shrunk on load, as imgproxy, imaginary, weserv and sharp have libvips do it.

POST / {"input", "output", "width", "height"}; JPEG of quality 95 and 4:2:0, the picture in exactly this size.
"""

from __future__ import annotations

from pathlib import Path

import falcon
import pyvips

from benchmarks.disk import put

pyvips.cache_set_max(0)  # what it keeps for a next call is of no use to a server


class Thumbnails:
    """The one resource."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Make one."""
        wanted = req.get_media()
        data = Path(wanted["input"]).read_bytes()
        image = pyvips.Image.thumbnail_buffer(data, wanted["width"], height=wanted["height"], size="force")
        put(Path(wanted["output"]), image.jpegsave_buffer(Q=95, subsample_mode="on", keep="none"))
        resp.media = wanted


app = falcon.App()
app.add_route("/", Thumbnails())
