fn unpack(row: u32, g: u32) -> Elements {
    let at = row + g * BLOCK_BYTES;
    let d = f16_at(at);
    let a = halves4(at + 2u);
    let b = halves4(at + 6u);
    let c = halves4(at + 10u);
    let e = halves4(at + 14u);
    return Elements(
        d * looked_up(a), d * looked_up(b), d * looked_up(c), d * looked_up(e),
        d * looked_up(a >> 4u), d * looked_up(b >> 4u), d * looked_up(c >> 4u), d * looked_up(e >> 4u)
    );
}
