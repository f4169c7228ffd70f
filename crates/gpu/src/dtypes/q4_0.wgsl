fn codes(row: u32, g: u32) -> Codes {
    let at = row + g * BLOCK_BYTES;
    let d = f16_at(at);
    let a = halves4(at + 2u);
    let b = halves4(at + 6u);
    let c = halves4(at + 10u);
    let e = halves4(at + 14u);
    return Codes(
        low4(a), low4(b), low4(c), low4(e), high4(a), high4(b), high4(c), high4(e),
        vec2<f32>(d), vec2<f32>(-8.0 * d)
    );
}
