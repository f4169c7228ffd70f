fn unpack(row: u32, g: u32) -> Elements {
    let block = row + (g / 8u) * BLOCK_BYTES;
    let s = g % 8u;
    let low = (word(block + 4u) >> (4u * s)) & 15u;
    let high = (half_at(block + 2u) >> (2u * s)) & 3u;
    let d = f16_at(block) * (f32(low | (high << 4u)) - 32.0);
    let at = block + 8u + 16u * s;
    let a = word(at);
    let b = word(at + 4u);
    let c = word(at + 8u);
    let e = word(at + 12u);
    return Elements(
        d * looked_up(a), d * looked_up(b), d * looked_up(c), d * looked_up(e),
        d * looked_up(a >> 4u), d * looked_up(b >> 4u), d * looked_up(c >> 4u), d * looked_up(e >> 4u)
    );
}
