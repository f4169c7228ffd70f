fn codes(block: u32, s: u32, k: u32) -> vec4<f32> {
    let low = (word(block + 48u + 32u * (s / 2u) + 4u * k) >> (4u * (s % 2u))) & 0x0f0f0f0fu;
    let high = (word(block + 16u + 4u * k) >> s) & 0x01010101u;
    return unsigned4(low | (high << 4u));
}

fn unpack(row: u32, g: u32) -> Elements {
    let block = row + (g / 8u) * BLOCK_BYTES;
    let s = g % 8u;
    let scales = scale_and_min(block, s);
    let d = scales.x;
    let m = scales.y;
    return Elements(
        d * codes(block, s, 0u) - m, d * codes(block, s, 1u) - m,
        d * codes(block, s, 2u) - m, d * codes(block, s, 3u) - m,
        d * codes(block, s, 4u) - m, d * codes(block, s, 5u) - m,
        d * codes(block, s, 6u) - m, d * codes(block, s, 7u) - m
    );
}
