fn scale(block: u32, j: u32) -> f32 {
    let low = (byte_at(block + 96u + j % 8u) >> (4u * (j / 8u))) & 15u;
    let high = (byte_at(block + 104u + j % 4u) >> (2u * (j / 4u))) & 3u;
    return f32(low | (high << 4u)) - 32.0;
}

fn codes(block: u32, s: u32, k: u32) -> vec4<f32> {
    let low = (halves4(block + 32u + 32u * (s / 4u) + 4u * k) >> (2u * (s % 4u))) & 0x03030303u;
    let high = (halves4(block + 4u * k) >> s) & 0x01010101u;
    return unsigned4(low | (high << 2u)) - 4.0;
}

fn unpack(row: u32, g: u32) -> Elements {
    let block = row + (g / 8u) * BLOCK_BYTES;
    let s = g % 8u;
    let factor = f16_at(block + 108u);
    let d = factor * scale(block, 2u * s);
    let e = factor * scale(block, 2u * s + 1u);
    return Elements(
        d * codes(block, s, 0u), d * codes(block, s, 1u), d * codes(block, s, 2u), d * codes(block, s, 3u),
        e * codes(block, s, 4u), e * codes(block, s, 5u), e * codes(block, s, 6u), e * codes(block, s, 7u)
    );
}
