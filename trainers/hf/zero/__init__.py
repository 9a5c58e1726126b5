"""DeepSpeed ZeRO: optimizer state and gradients are sharded over the ranks."""
