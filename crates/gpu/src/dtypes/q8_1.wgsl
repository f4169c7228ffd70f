fn codes(row: u32, g: u32) -> Codes {
    let at = row + g * BLOCK_BYTES;
    return Codes(
        word(at + 4u), word(at + 8u), word(at + 12u), word(at + 16u),
        word(at + 20u), word(at + 24u), word(at + 28u), word(at + 32u),
        vec2<f32>(f16_at(at)), vec2<f32>(0.0)
    );
}
