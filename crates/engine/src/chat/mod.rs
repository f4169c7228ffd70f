//! Chat templates from the model file, and stop strings.
