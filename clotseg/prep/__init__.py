"""Case folders in; cohorts, and shards of windowed slices, out."""
