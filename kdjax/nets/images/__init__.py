"""Networks of images: from LeNet-like to vision transformers."""
