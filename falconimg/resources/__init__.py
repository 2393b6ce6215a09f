"""One class for each URL, a file for each noun; the table ROUTES is at the foot."""

from __future__ import annotations

from falconimg.resources.about import Alive, Docs, Metrics, OpenApi, Ready
from falconimg.resources.base import Resource
from falconimg.resources.batch import Items, Process
from falconimg.resources.image import Addressed, Uploaded
from falconimg.resources.information import AddressedInfo, UploadedInfo
from falconimg.resources.page import Home, Page

__all__ = ["ROUTES", "Resource"]

ROUTES: dict[str, type[Resource]] = {
    "/": Home,
    "/page/{name}": Page,
    "/items": Items,
    "/items/": Items,
    "/v1/process": Process,
    "/v1/image": Uploaded,
    "/v1/image/{path:path}": Addressed,
    "/v1/info": UploadedInfo,
    "/v1/info/{path:path}": AddressedInfo,
    "/openapi.json": OpenApi,
    "/docs": Docs,
    "/docs/{name}": Docs,
    "/livez": Alive,
    "/healthz": Alive,
    "/health": Alive,
    "/readyz": Ready,
    "/metrics": Metrics,
}
