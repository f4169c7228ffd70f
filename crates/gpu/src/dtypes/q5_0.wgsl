fn codes(row: u32, g: u32) -> Codes {
    let at = row + g * BLOCK_BYTES;
    let d = f16_at(at);
    let h = halves4(at + 2u);
    let a = halves4(at + 6u);
    let b = halves4(at + 10u);
    let c = halves4(at + 14u);
    let e = halves4(at + 18u);
    return Codes(
        low4(a) | (spread4(h) << 4u), low4(b) | (spread4(h >> 4u) << 4u),
        low4(c) | (spread4(h >> 8u) << 4u), low4(e) | (spread4(h >> 12u) << 4u),
        high4(a) | (spread4(h >> 16u) << 4u), high4(b) | (spread4(h >> 20u) << 4u),
        high4(c) | (spread4(h >> 24u) << 4u), high4(e) | (spread4(h >> 28u) << 4u),
        vec2<f32>(d), vec2<f32>(-16.0 * d)
    );
}
