fn codes(at: u32, shift: u32) -> vec4<f32> {
    return unsigned4((word(at) >> shift) & 0x0f0f0f0fu);
}

fn unpack(row: u32, g: u32) -> Elements {
    let block = row + (g / 8u) * BLOCK_BYTES;
    let s = g % 8u;
    let scales = scale_and_min(block, s);
    let d = scales.x;
    let m = scales.y;
    let at = block + 16u + 32u * (s / 2u);
    let shift = 4u * (s % 2u);
    return Elements(
        d * codes(at, shift) - m, d * codes(at + 4u, shift) - m,
        d * codes(at + 8u, shift) - m, d * codes(at + 12u, shift) - m,
        d * codes(at + 16u, shift) - m, d * codes(at + 20u, shift) - m,
        d * codes(at + 24u, shift) - m, d * codes(at + 28u, shift) - m
    );
}
