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

fn codes(row: u32, g: u32) -> Codes {
    let block = row + (g / 2u) * BLOCK_BYTES;
    let s = g % 2u;
    let d = vec2<f32>(half_e4m3(byte_at(block + 2u * s)), half_e4m3(byte_at(block + 2u * s + 1u)));
    let at = block + 4u + 16u * s;
    let a = word(at);
    let b = word(at + 4u);
    let c = word(at + 8u);
    let e = word(at + 12u);
    return Codes(
        looked_up(a), looked_up(b), looked_up(a >> 4u), looked_up(b >> 4u),
        looked_up(c), looked_up(e), looked_up(c >> 4u), looked_up(e >> 4u),
        d, vec2<f32>(0.0)
    );
}
