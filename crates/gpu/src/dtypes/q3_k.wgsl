fn scale(block: u32, j: u32) -> f32 {
    let low = (byte_at(block + 96u + j % 8u) >> (4u * (j / 8u))) & 15u;
    let high = (byte_at(block + 104u + j % 4u) >> (2u * (j / 4u))) & 3u;
    return f32(low | (high << 4u)) - 32.0;
}

fn triples(block: u32, s: u32, k: u32) -> u32 {
    let low = (halves4(block + 32u + 32u * (s / 4u) + 4u * k) >> (2u * (s % 4u))) & 0x03030303u;
    let high = (halves4(block + 4u * k) >> s) & 0x01010101u;
    return low | (high << 2u);
}

fn codes(row: u32, g: u32) -> Codes {
    let block = row + (g / 8u) * BLOCK_BYTES;
    let s = g % 8u;
    let d = f16_at(block + 108u) * vec2<f32>(scale(block, 2u * s), scale(block, 2u * s + 1u));
    return Codes(
        triples(block, s, 0u), triples(block, s, 1u), triples(block, s, 2u), triples(block, s, 3u),
        triples(block, s, 4u), triples(block, s, 5u), triples(block, s, 6u), triples(block, s, 7u),
        d, -4.0 * d
    );
}
