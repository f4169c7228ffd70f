fn four_at(at: u32) -> vec4<f32> {
    let a = unpack2x16float(halves4(at));
    let b = unpack2x16float(halves4(at + 4u));
    return vec4<f32>(a.x, a.y, b.x, b.y);
}
