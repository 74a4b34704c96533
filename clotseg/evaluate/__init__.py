"""A trained network and untouched cases in; masks, probabilities, metrics and a report out."""
