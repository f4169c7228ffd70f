fn unpack(row: u32, g: u32) -> Elements {
    let at = row + g * BLOCK_BYTES;
    let d = f16_at(at);
    return Elements(
        d * signed4(word(at + 4u)), d * signed4(word(at + 8u)),
        d * signed4(word(at + 12u)), d * signed4(word(at + 16u)),
        d * signed4(word(at + 20u)), d * signed4(word(at + 24u)),
        d * signed4(word(at + 28u)), d * signed4(word(at + 32u))
    );
}
