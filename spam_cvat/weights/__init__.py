"""Shipped weights: ``gate-and-links.npz``, made by ``spam-cvat train gate-and-links --seed 0`` on generated scenes."""
