"""The tests."""

import falconimg as falconimg  # first of all: it sets what OpenCV reads when it is imported
