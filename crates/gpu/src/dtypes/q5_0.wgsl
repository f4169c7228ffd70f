fn unpack(row: u32, g: u32) -> Elements {
    let at = row + g * BLOCK_BYTES;
    let d = f16_at(at);
    let h = halves4(at + 2u);
    let a = halves4(at + 6u);
    let b = halves4(at + 10u);
    let c = halves4(at + 14u);
    let e = halves4(at + 18u);
    let m = vec4<f32>(16.0);
    return Elements(
        d * (low4(a) + 16.0 * bits4(h) - m), d * (low4(b) + 16.0 * bits4(h >> 4u) - m),
        d * (low4(c) + 16.0 * bits4(h >> 8u) - m), d * (low4(e) + 16.0 * bits4(h >> 12u) - m),
        d * (high4(a) + 16.0 * bits4(h >> 16u) - m), d * (high4(b) + 16.0 * bits4(h >> 20u) - m),
        d * (high4(c) + 16.0 * bits4(h >> 24u) - m), d * (high4(e) + 16.0 * bits4(h >> 28u) - m)
    );
}
