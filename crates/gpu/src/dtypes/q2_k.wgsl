fn pairs(at: u32, shift: u32) -> u32 {
    return (word(at) >> shift) & 0x03030303u;
}

fn codes(row: u32, g: u32) -> Codes {
    let block = row + (g / 8u) * BLOCK_BYTES;
    let s = g % 8u;
    let factors = unpack2x16float(word(block + 80u));
    let packed = half_at(block + 2u * s);
    let d = factors.x * vec2<f32>(f32(packed & 15u), f32((packed >> 8u) & 15u));
    let m = factors.y * vec2<f32>(f32((packed >> 4u) & 15u), f32(packed >> 12u));
    let at = block + 16u + 32u * (s / 4u);
    let shift = 2u * (s % 4u);
    return Codes(
        pairs(at, shift), pairs(at + 4u, shift), pairs(at + 8u, shift), pairs(at + 12u, shift),
        pairs(at + 16u, shift), pairs(at + 20u, shift), pairs(at + 24u, shift), pairs(at + 28u, shift),
        d, -1.0 * m
    );
}
