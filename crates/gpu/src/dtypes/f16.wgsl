fn four_at(at: u32) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(halves4(at)), unpack2x16float(halves4(at + 4u)));
}
