fn unpack(row: u32, g: u32) -> Elements {
    let at = row + g * BLOCK_BYTES;
    let header = unpack2x16float(word(at));
    let d = header.x;
    let m = vec4<f32>(header.y);
    let a = word(at + 4u);
    let b = word(at + 8u);
    let c = word(at + 12u);
    let e = word(at + 16u);
    return Elements(
        d * low4(a) + m, d * low4(b) + m, d * low4(c) + m, d * low4(e) + m,
        d * high4(a) + m, d * high4(b) + m, d * high4(c) + m, d * high4(e) + m
    );
}
