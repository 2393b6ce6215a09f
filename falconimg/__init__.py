"""falconimg: a batch image server with a native core."""

# First of all: it sets what OpenCV reads from the environment when it is imported.
from falconimg.settings import Settings

__all__ = ["Settings"]
