"""Data sets, ImageNet streams, preprocessing, and batches of one size."""
