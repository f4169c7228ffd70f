fn codes(row: u32, g: u32) -> Codes {
    let block = row + (g / 8u) * BLOCK_BYTES;
    let s = g % 8u;
    let scales = scale_and_min(block, s);
    let at = block + 16u + 32u * (s / 2u);
    let a = nibbles(at, s);
    let b = nibbles(at + 16u, s);
    return Codes(a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w, vec2<f32>(scales.x), vec2<f32>(-scales.y));
}
