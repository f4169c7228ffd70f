fn codes(row: u32, g: u32) -> Codes {
    let at = row + g * BLOCK_BYTES;
    return Codes(
        halves4(at + 2u), halves4(at + 6u), halves4(at + 10u), halves4(at + 14u),
        halves4(at + 18u), halves4(at + 22u), halves4(at + 26u), halves4(at + 30u),
        vec2<f32>(f16_at(at)), vec2<f32>(0.0)
    );
}
