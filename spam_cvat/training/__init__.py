"""Training: generated scenes, pretraining on them, and learning from pseudo-labels and answers."""
