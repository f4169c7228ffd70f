fn codes(row: u32, g: u32) -> Codes {
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
    return Codes(
        looked_up(a), looked_up(b), looked_up(c), looked_up(e),
        looked_up(a >> 4u), looked_up(b >> 4u), looked_up(c >> 4u), looked_up(e >> 4u),
        vec2<f32>(d), vec2<f32>(0.0)
    );
}
