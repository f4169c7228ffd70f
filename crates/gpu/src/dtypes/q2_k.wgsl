fn codes(at: u32, shift: u32) -> vec4<f32> {
    return unsigned4((word(at) >> shift) & 0x03030303u);
}

fn unpack(row: u32, g: u32) -> Elements {
    let block = row + (g / 8u) * BLOCK_BYTES;
    let s = g % 8u;
    let factors = unpack2x16float(word(block + 80u));
    let packed = half_at(block + 2u * s);
    let d = factors.x * vec2<f32>(f32(packed & 15u), f32((packed >> 8u) & 15u));
    let m = factors.y * vec2<f32>(f32((packed >> 4u) & 15u), f32(packed >> 12u));
    let at = block + 16u + 32u * (s / 4u);
    let shift = 2u * (s % 4u);
    return Elements(
        d.x * codes(at, shift) - m.x, d.x * codes(at + 4u, shift) - m.x,
        d.x * codes(at + 8u, shift) - m.x, d.x * codes(at + 12u, shift) - m.x,
        d.y * codes(at + 16u, shift) - m.y, d.y * codes(at + 20u, shift) - m.y,
        d.y * codes(at + 24u, shift) - m.y, d.y * codes(at + 28u, shift) - m.y
    );
}
