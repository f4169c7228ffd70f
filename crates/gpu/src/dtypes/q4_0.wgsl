fn unpack(row: u32, g: u32) -> Elements {
    let at = row + g * BLOCK_BYTES;
    let d = f16_at(at);
    let a = halves4(at + 2u);
    let b = halves4(at + 6u);
    let c = halves4(at + 10u);
    let e = halves4(at + 14u);
    let m = vec4<f32>(-8.0 * d);
    return Elements(
        d * low4(a) + m, d * low4(b) + m, d * low4(c) + m, d * low4(e) + m,
        d * high4(a) + m, d * high4(b) + m, d * high4(c) + m, d * high4(e) + m
    );
}
