// Half of an E4M3 code without its sign; 0x7f counts as 0.
fn half_e4m3(code: u32) -> f32 {
    let exponent = (code >> 3u) & 15u;
    let mantissa = f32(code & 7u);
    if code == 0x7fu {
        return 0.0;
    }
    if exponent == 0u {
        return mantissa * 0.0009765625;
    }
    return (8.0 + mantissa) * bitcast<f32>((exponent + 116u) << 23u);
}

fn unpack(row: u32, g: u32) -> Elements {
    let block = row + (g / 2u) * BLOCK_BYTES;
    let s = g % 2u;
    let d = half_e4m3(byte_at(block + 2u * s));
    let e = half_e4m3(byte_at(block + 2u * s + 1u));
    let at = block + 4u + 16u * s;
    let a = word(at);
    let b = word(at + 4u);
    let c = word(at + 8u);
    let f = word(at + 12u);
    return Elements(
        d * looked_up(a), d * looked_up(b), d * looked_up(a >> 4u), d * looked_up(b >> 4u),
        e * looked_up(c), e * looked_up(f), e * looked_up(c >> 4u), e * looked_up(f >> 4u)
    );
}
