"""One class for each URL, a file for each noun; the tables of routes are at the foot."""

from __future__ import annotations

from falconimg.resources.about import Alive, Docs, Metrics, OpenApi, Ready
from falconimg.resources.base import Resource
from falconimg.resources.batch import Items, Process
from falconimg.resources.image import Addressed, Uploaded
from falconimg.resources.information import AddressedInfo, UploadedInfo
from falconimg.resources.jobs import Events, Job, Jobs, OfJobs, Retry
from falconimg.resources.page import Home, Page

__all__ = ["JOB_ROUTES", "ROUTES", "Resource"]

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
JOB_ROUTES: dict[str, type[OfJobs]] = {  # where FALCONIMG_JOBS is on
    "/v1/jobs": Jobs,
    "/v1/jobs/{id_}": Job,
    "/v1/jobs/{id_}/events": Events,
    "/v1/jobs/{id_}/retry": Retry,
}
