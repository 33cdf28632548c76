"""Multi-object tracks for CVAT: a graph hierarchy annotates the video, humans answer only what it is unsure of."""

__version__ = "0.1.0"
