fn codes(block: u32, s: u32, k: u32) -> vec4<f32> {
    let c = s % 4u;
    let low = (halves4(block + 64u * (s / 4u) + 32u * (c % 2u) + 4u * k) >> (4u * (c / 2u))) & 0x0f0f0f0fu;
    let high = (halves4(block + 128u + 32u * (s / 4u) + 4u * k) >> (2u * c)) & 0x03030303u;
    return unsigned4(low | (high << 4u)) - 32.0;
}

fn unpack(row: u32, g: u32) -> Elements {
    let block = row + (g / 8u) * BLOCK_BYTES;
    let s = g % 8u;
    let scales = f16_at(block + 208u) * signed4(half_at(block + 192u + 2u * s));
    let d = scales.x;
    let e = scales.y;
    return Elements(
        d * codes(block, s, 0u), d * codes(block, s, 1u), d * codes(block, s, 2u), d * codes(block, s, 3u),
        e * codes(block, s, 4u), e * codes(block, s, 5u), e * codes(block, s, 6u), e * codes(block, s, 7u)
    );
}
