fn nibbles(at: u32, shift: u32) -> u32 {
    return low4(word(at) >> shift);
}

fn codes(row: u32, g: u32) -> Codes {
    let block = row + (g / 8u) * BLOCK_BYTES;
    let s = g % 8u;
    let scales = scale_and_min(block, s);
    let at = block + 16u + 32u * (s / 2u);
    let shift = 4u * (s % 2u);
    return Codes(
        nibbles(at, shift), nibbles(at + 4u, shift), nibbles(at + 8u, shift), nibbles(at + 12u, shift),
        nibbles(at + 16u, shift), nibbles(at + 20u, shift), nibbles(at + 24u, shift), nibbles(at + 28u, shift),
        vec2<f32>(scales.x), vec2<f32>(-scales.y)
    );
}
