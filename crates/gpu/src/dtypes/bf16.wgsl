// The upper halves of f32.
fn four_at(at: u32) -> vec4<f32> {
    let a = halves4(at);
    let b = halves4(at + 4u);
    return bitcast<vec4<f32>>(vec4<u32>(a << 16u, a & 0xffff0000u, b << 16u, b & 0xffff0000u));
}
