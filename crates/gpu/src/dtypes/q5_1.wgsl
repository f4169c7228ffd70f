fn unpack(row: u32, g: u32) -> Elements {
    let at = row + g * BLOCK_BYTES;
    let header = unpack2x16float(word(at));
    let d = header.x;
    let m = vec4<f32>(header.y);
    let h = word(at + 4u);
    let a = word(at + 8u);
    let b = word(at + 12u);
    let c = word(at + 16u);
    let e = word(at + 20u);
    return Elements(
        d * (low4(a) + 16.0 * bits4(h)) + m, d * (low4(b) + 16.0 * bits4(h >> 4u)) + m,
        d * (low4(c) + 16.0 * bits4(h >> 8u)) + m, d * (low4(e) + 16.0 * bits4(h >> 12u)) + m,
        d * (high4(a) + 16.0 * bits4(h >> 16u)) + m, d * (high4(b) + 16.0 * bits4(h >> 20u)) + m,
        d * (high4(c) + 16.0 * bits4(h >> 24u)) + m, d * (high4(e) + 16.0 * bits4(h >> 28u)) + m
    );
}
