fn element(at: u32) -> f32 {
    return bitcast<f32>(word(at));
}
