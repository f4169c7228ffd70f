fn codes(at: u32, shift: u32) -> vec4<f32> {
    return unsigned4((bytes4(at) >> shift) & 0x03030303u) - 1.0;
}

fn unpack(row: u32, g: u32) -> Elements {
    let block = row + (g / 8u) * BLOCK_BYTES;
    let s = g % 8u;
    let d = f16_at(block + 64u);
    let at = block + 32u * (s / 4u);
    let shift = 2u * (s % 4u);
    return Elements(
        d * codes(at, shift), d * codes(at + 4u, shift), d * codes(at + 8u, shift), d * codes(at + 12u, shift),
        d * codes(at + 16u, shift), d * codes(at + 20u, shift), d * codes(at + 24u, shift), d * codes(at + 28u, shift)
    );
}
