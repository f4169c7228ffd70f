//! From logits to a token: a chain of small stages.
