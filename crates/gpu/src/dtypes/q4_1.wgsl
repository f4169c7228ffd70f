fn codes(row: u32, g: u32) -> Codes {
    let at = row + g * BLOCK_BYTES;
    let header = unpack2x16float(word(at));
    let a = word(at + 4u);
    let b = word(at + 8u);
    let c = word(at + 12u);
    let e = word(at + 16u);
    return Codes(
        low4(a), low4(b), low4(c), low4(e), high4(a), high4(b), high4(c), high4(e),
        vec2<f32>(header.x), vec2<f32>(header.y)
    );
}
