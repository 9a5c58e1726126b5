"""The regime `sft_noisy`: fine-tuning on instructions, some of whose answers are spoiled."""
