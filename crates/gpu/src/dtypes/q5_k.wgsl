fn five_bits(block: u32, s: u32, at: u32) -> vec4<u32> {
    let high = (words4(block + 16u + at) >> vec4<u32>(s)) & vec4<u32>(0x01010101u);
    return nibbles(block + 48u + 32u * (s / 2u) + at, s) | (high << vec4<u32>(4u));
}

fn codes(row: u32, g: u32) -> Codes {
    let block = row + (g / 8u) * BLOCK_BYTES;
    let s = g % 8u;
    let scales = scale_and_min(block, s);
    let a = five_bits(block, s, 0u);
    let b = five_bits(block, s, 16u);
    return Codes(a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w, vec2<f32>(scales.x), vec2<f32>(-scales.y));
}
