// The lowest four pairs of bits, a byte each.
fn pairs4(bits: u32) -> u32 {
    let b = bits & 255u;
    return (b | (b << 6u) | (b << 12u) | (b << 18u)) & 0x03030303u;
}

fn codes(row: u32, g: u32) -> Codes {
    let block = row + (g / 2u) * BLOCK_BYTES;
    let d = f16_at(block);
    let a = bytes4(block + 2u + 8u * (g % 2u));
    let b = bytes4(block + 6u + 8u * (g % 2u));
    return Codes(
        pairs4(a), pairs4(a >> 8u), pairs4(a >> 16u), pairs4(a >> 24u),
        pairs4(b), pairs4(b >> 8u), pairs4(b >> 16u), pairs4(b >> 24u),
        vec2<f32>(d), vec2<f32>(-d)
    );
}
