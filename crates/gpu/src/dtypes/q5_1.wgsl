fn codes(row: u32, g: u32) -> Codes {
    let at = row + g * BLOCK_BYTES;
    let header = unpack2x16float(word(at));
    let h = word(at + 4u);
    let a = word(at + 8u);
    let b = word(at + 12u);
    let c = word(at + 16u);
    let e = word(at + 20u);
    return Codes(
        low4(a) | (spread4(h) << 4u), low4(b) | (spread4(h >> 4u) << 4u),
        low4(c) | (spread4(h >> 8u) << 4u), low4(e) | (spread4(h >> 12u) << 4u),
        high4(a) | (spread4(h >> 16u) << 4u), high4(b) | (spread4(h >> 20u) << 4u),
        high4(c) | (spread4(h >> 24u) << 4u), high4(e) | (spread4(h >> 28u) << 4u),
        vec2<f32>(header.x), vec2<f32>(header.y)
    );
}
