fn unpack(row: u32, g: u32) -> Elements {
    let at = row + g * BLOCK_BYTES;
    let d = f16_at(at);
    return Elements(
        d * signed4(halves4(at + 2u)), d * signed4(halves4(at + 6u)),
        d * signed4(halves4(at + 10u)), d * signed4(halves4(at + 14u)),
        d * signed4(halves4(at + 18u)), d * signed4(halves4(at + 22u)),
        d * signed4(halves4(at + 26u)), d * signed4(halves4(at + 30u))
    );
}
