"""Serving: the Nuclio function, its video-level session, and a gateway that runs it without Nuclio."""
