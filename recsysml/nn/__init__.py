"""Building blocks of every model: tensors in, tensors out."""
