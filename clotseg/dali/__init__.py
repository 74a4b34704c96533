"""Shards in; augmented, centre-padded batches as TensorFlow tensors on the device out."""
