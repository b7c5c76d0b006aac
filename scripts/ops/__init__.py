"""Operations on tensors: tensors in, tensors out, nothing else known."""
