// Rounded to the nearest f32, ties to even; what is below the normal numbers of f32 becomes 0.
fn element(at: u32) -> f32 {
    let low = word(at);
    let high = word(at + 4u);
    let sign = high & 0x80000000u;
    let exponent = i32((high >> 20u) & 0x7ffu) - 896;
    var bits = (u32(max(exponent, 0)) << 23u) | ((high & 0xfffffu) << 3u) | (low >> 29u);
    let rest = low & 0x1fffffffu;
    if rest > 0x10000000u || (rest == 0x10000000u && (bits & 1u) == 1u) {
        bits += 1u;
    }
    if exponent <= 0 {
        bits = 0u;
    }
    if exponent >= 255 {
        bits = 0x7f800000u;
    }
    return bitcast<f32>(sign | bits);
}

fn four_at(at: u32) -> vec4<f32> {
    return vec4<f32>(element(at), element(at + 8u), element(at + 16u), element(at + 24u));
}
