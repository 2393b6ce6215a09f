"""Throughput through jobs against that of the same batch by /v1/process: `python -m benchmarks.jobs`.

One server, one worker of the web and one of jobs, each with as many threads as cores; they take turns. Results are
synced on both sides, and each job is another, submitted without a key.
"""

from __future__ import annotations

import http.client
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import pictures
from benchmarks.rounds import Plan
from benchmarks.servers import SECONDS, Server, running

ROUNDS = 7


def ask(server: Server, method: str, path: str, body: Any = None) -> Any:
    """The answer's JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
    connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def by_process(server: Server, batch: Any) -> float:
    """Seconds of the batch by /v1/process."""
    begun = time.monotonic()
    if ask(server, "POST", "/v1/process", batch)["status"] != "done":
        raise SystemExit("the batch failed")
    return time.monotonic() - begun


def by_jobs(server: Server, batch: Any) -> float:
    """Seconds from the submission to the end that is on record."""
    begun = time.time()
    id_ = ask(server, "POST", "/v1/jobs", batch)["id"]
    while (job := ask(server, "GET", f"/v1/jobs/{id_}?limit=0"))["ended"] is None:
        time.sleep(0.1)
    if job["state"] != "done":
        raise SystemExit("the job failed")
    return float(job["ended"]) - begun


def main() -> None:
    """Print a row for each kind of batch."""
    plan = Plan()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        settings = {"jobs": "on", "ledger": str(root / "jobs.db")}
        with running("falconimg", root, 1, **settings) as server:
            for picture, count in ((plan.pictures.one, 400), (plan.pictures.six, 100)):
                source = pictures.write(picture, root).name
                images = [{"input": source, "output": f"out/{n}.jpg"} for n in range(count)]
                batch = {"images": images, "operations": ["resize=0.5"]}
                sides = {"process": by_process, "jobs": by_jobs}
                taken: dict[str, list[float]] = {name: [] for name in sides}
                for turn in range(ROUNDS + 1):
                    for side in list(sides)[:: -1 if turn % 2 else 1]:
                        taken[side].append(sides[side](server, batch))
                rounds = zip(taken["process"][1:], taken["jobs"][1:], strict=True)  # the first is warming
                ratio = statistics.median(process / jobs for process, jobs in rounds)
                process, jobs = (count / statistics.median(each[1:]) for each in taken.values())
                print(f"{count} of {picture.title}: {process:.1f} /s by process, {jobs:.1f} /s by jobs: {ratio:.2f}")  # noqa: T201


if __name__ == "__main__":
    main()
