fn four_at(at: u32) -> vec4<f32> {
    let words = vec4<u32>(word(at), word(at + 4u), word(at + 8u), word(at + 12u));
    return vec4<f32>(bitcast<vec4<i32>>(words));
}
