fn element(at: u32) -> f32 {
    return f32(bitcast<i32>(half_at(at) << 16u) >> 16u);
}
