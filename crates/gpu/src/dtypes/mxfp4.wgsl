// Half of 2^(exponent - 127); the smallest two are subnormal.
fn half_power(exponent: u32) -> f32 {
    return bitcast<f32>(select((max(exponent, 1u) - 1u) << 23u, 0x00200000u << exponent, exponent < 2u));
}

fn unpack(row: u32, g: u32) -> Elements {
    let at = row + g * BLOCK_BYTES;
    let d = half_power(byte_at(at));
    let a = bytes4(at + 1u);
    let b = bytes4(at + 5u);
    let c = bytes4(at + 9u);
    let e = bytes4(at + 13u);
    return Elements(
        d * looked_up(a), d * looked_up(b), d * looked_up(c), d * looked_up(e),
        d * looked_up(a >> 4u), d * looked_up(b >> 4u), d * looked_up(c >> 4u), d * looked_up(e >> 4u)
    );
}
