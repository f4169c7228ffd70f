fn pairs(at: u32, shift: u32) -> u32 {
    return (bytes4(at) >> shift) & 0x03030303u;
}

fn codes(row: u32, g: u32) -> Codes {
    let block = row + (g / 8u) * BLOCK_BYTES;
    let s = g % 8u;
    let d = f16_at(block + 64u);
    let at = block + 32u * (s / 4u);
    let shift = 2u * (s % 4u);
    return Codes(
        pairs(at, shift), pairs(at + 4u, shift), pairs(at + 8u, shift), pairs(at + 12u, shift),
        pairs(at + 16u, shift), pairs(at + 20u, shift), pairs(at + 24u, shift), pairs(at + 28u, shift),
        vec2<f32>(d), vec2<f32>(-d)
    );
}
