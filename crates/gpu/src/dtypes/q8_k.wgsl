fn codes(row: u32, g: u32) -> Codes {
    let block = row + (g / 8u) * BLOCK_BYTES;
    let at = block + 4u + 32u * (g % 8u);
    return Codes(
        word(at), word(at + 4u), word(at + 8u), word(at + 12u),
        word(at + 16u), word(at + 20u), word(at + 24u), word(at + 28u),
        vec2<f32>(bitcast<f32>(word(block))), vec2<f32>(0.0)
    );
}
