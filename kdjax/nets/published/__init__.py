"""Published weights: PyTorch's files and folders of `transformers`."""
