fn four_at(at: u32) -> vec4<f32> {
    return signed4(bytes4(at));
}
