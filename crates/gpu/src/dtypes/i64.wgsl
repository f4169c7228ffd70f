// By its size, since the two halves of a negative number cancel out.
fn element(at: u32) -> f32 {
    var low = word(at);
    var high = word(at + 4u);
    let is_negative = (high >> 31u) == 1u;
    if is_negative {
        low = ~low + 1u;
        high = ~high + u32(low == 0u);
    }
    let size = f32(high) * 4294967296.0 + f32(low);
    return select(size, -size, is_negative);
}

fn four_at(at: u32) -> vec4<f32> {
    return vec4<f32>(element(at), element(at + 8u), element(at + 16u), element(at + 24u));
}
