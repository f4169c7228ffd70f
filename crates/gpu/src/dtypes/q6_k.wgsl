fn six_bits(block: u32, s: u32, k: u32) -> u32 {
    let c = s % 4u;
    let low = low4(halves4(block + 64u * (s / 4u) + 32u * (c % 2u) + 4u * k) >> (4u * (c / 2u)));
    let high = (halves4(block + 128u + 32u * (s / 4u) + 4u * k) >> (2u * c)) & 0x03030303u;
    return low | (high << 4u);
}

fn codes(row: u32, g: u32) -> Codes {
    let block = row + (g / 8u) * BLOCK_BYTES;
    let s = g % 8u;
    let scales = vec4<f32>(unpack4xI8(half_at(block + 192u + 2u * s)));
    let d = f16_at(block + 208u) * vec2<f32>(scales.x, scales.y);
    return Codes(
        six_bits(block, s, 0u), six_bits(block, s, 1u), six_bits(block, s, 2u), six_bits(block, s, 3u),
        six_bits(block, s, 4u), six_bits(block, s, 5u), six_bits(block, s, 6u), six_bits(block, s, 7u),
        d, -32.0 * d
    );
}
