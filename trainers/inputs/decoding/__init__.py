"""From encoded images to the size that a model takes: decoders, frames, batches."""
