"""Methods of language models and of transformers."""
