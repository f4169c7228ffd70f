//! Models on disk: names, sources, checksums and folders; nothing of tensors or tokens.
#![forbid(unsafe_code)]
