"""Whether an installed falconimg makes pictures of the one in this directory: `python try_wheel.py examples`."""

import sys
import tempfile
from pathlib import Path

from falcon.testing import TestClient

from falconimg.app import create_app
from falconimg.settings import Settings

with tempfile.TemporaryDirectory() as out:
    app = create_app(Settings(input_root=Path(sys.argv[1]), output_root=Path(out)))
    names = [f"{extension}.{extension}" for extension in ("jpg", "png", "webp", "avif")]
    request = {
        "images": [{"input": "landscape.jpg", "output": name} for name in names],
        "operations": ["split", "resize=0.5", "blur=25"],
    }
    answer = TestClient(app, headers={"Host": "localhost"}).simulate_post("/v1/process", json=request)
    made = sorted(path.name for path in Path(out).iterdir() if path.stat().st_size)
    sys.stdout.write(f"{answer.status_code} {' '.join(made)}\n")
    sys.exit(answer.status_code != 200 or len(made) != 16)
