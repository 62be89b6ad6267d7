"""Commands. Composes the rooms below; computes no statistics."""
