fn codes(row: u32, g: u32) -> Codes {
    let block = row + (g / 4u) * BLOCK_BYTES;
    let d = f16_at(block);
    let b = bytes4(block + 2u + 4u * (g % 4u));
    return Codes(
        spread4(b), spread4(b >> 4u), spread4(b >> 8u), spread4(b >> 12u),
        spread4(b >> 16u), spread4(b >> 20u), spread4(b >> 24u), spread4(b >> 28u),
        vec2<f32>(2.0 * d), vec2<f32>(-d)
    );
}
