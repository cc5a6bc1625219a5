"""Drawing with matplotlib from several threads."""

from threading import Lock

DRAWING = Lock()
"""Held by whoever draws: matplotlib's font and text caches are not made for several threads."""
