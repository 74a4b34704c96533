"""Batches in; a run folder with weights, history and everything needed to repeat it out."""
