fn five_bits(block: u32, s: u32, k: u32) -> u32 {
    let low = low4(word(block + 48u + 32u * (s / 2u) + 4u * k) >> (4u * (s % 2u)));
    let high = (word(block + 16u + 4u * k) >> s) & 0x01010101u;
    return low | (high << 4u);
}

fn codes(row: u32, g: u32) -> Codes {
    let block = row + (g / 8u) * BLOCK_BYTES;
    let s = g % 8u;
    let scales = scale_and_min(block, s);
    return Codes(
        five_bits(block, s, 0u), five_bits(block, s, 1u), five_bits(block, s, 2u), five_bits(block, s, 3u),
        five_bits(block, s, 4u), five_bits(block, s, 5u), five_bits(block, s, 6u), five_bits(block, s, 7u),
        vec2<f32>(scales.x), vec2<f32>(-scales.y)
    );
}
