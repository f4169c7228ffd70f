fn codes(row: u32, g: u32) -> Codes {
    let at = row + g * BLOCK_BYTES;
    let d = f16_at(at);
    let a = halves4(at + 2u);
    let b = halves4(at + 6u);
    let c = halves4(at + 10u);
    let e = halves4(at + 14u);
    return Codes(
        looked_up(a), looked_up(b), looked_up(c), looked_up(e),
        looked_up(a >> 4u), looked_up(b >> 4u), looked_up(c >> 4u), looked_up(e >> 4u),
        vec2<f32>(d), vec2<f32>(0.0)
    );
}
