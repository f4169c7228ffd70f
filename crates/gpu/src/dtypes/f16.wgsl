fn element(at: u32) -> f32 {
    return f16_at(at);
}
