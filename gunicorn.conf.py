"""What `gunicorn` reads when it is started here; the settings themselves are in the package."""

from falconimg.gunicorn_conf import *  # noqa: F403
