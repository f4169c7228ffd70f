// Half of 2^(exponent - 127); the smallest two are subnormal.
fn half_power(exponent: u32) -> f32 {
    return bitcast<f32>(select((max(exponent, 1u) - 1u) << 23u, 0x00200000u << exponent, exponent < 2u));
}

fn codes(row: u32, g: u32) -> Codes {
    let at = row + g * BLOCK_BYTES;
    let d = half_power(byte_at(at));
    let a = bytes4(at + 1u);
    let b = bytes4(at + 5u);
    let c = bytes4(at + 9u);
    let e = bytes4(at + 13u);
    return Codes(
        looked_up(a), looked_up(b), looked_up(c), looked_up(e),
        looked_up(a >> 4u), looked_up(b >> 4u), looked_up(c >> 4u), looked_up(e >> 4u),
        vec2<f32>(d), vec2<f32>(0.0)
    );
}
