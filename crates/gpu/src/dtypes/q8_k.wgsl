fn unpack(row: u32, g: u32) -> Elements {
    let block = row + (g / 8u) * BLOCK_BYTES;
    let d = bitcast<f32>(word(block));
    let at = block + 4u + 32u * (g % 8u);
    return Elements(
        d * signed4(word(at)), d * signed4(word(at + 4u)),
        d * signed4(word(at + 8u)), d * signed4(word(at + 12u)),
        d * signed4(word(at + 16u)), d * signed4(word(at + 20u)),
        d * signed4(word(at + 24u)), d * signed4(word(at + 28u))
    );
}
