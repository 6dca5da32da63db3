"""Methods of distillation: losses with their projectors, banks and views."""
