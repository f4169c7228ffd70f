// Eight times one more than the grid has, and what lies an eighth above or below it: w = d / 8 * (code - 9).
fn eighths(values: u32, is_below: u32) -> u32 {
    // One more than -1, 0 or 1, without a carry into the next byte.
    let more = ((values ^ 0x80808080u) + 0x01010101u) ^ 0x80808080u;
    return 8u * more + (1u - is_below) * 0x02020202u;
}

fn codes(row: u32, g: u32) -> Codes {
    let block = row + (g / 8u) * BLOCK_BYTES;
    let s = g % 8u;
    let a = word(block + 48u);
    let b = word(block + 52u);
    let bits = ((a >> 12u) & 0x000fu) | ((a >> 24u) & 0x00f0u) | ((b >> 4u) & 0x0f00u) | ((b >> 16u) & 0xf000u);
    let factor = 0.125 * unpack2x16float(bits).x;
    let scales = half_at(block + 48u + 2u * (s / 2u)) >> (6u * (s % 2u));
    let d = factor * vec2<f32>(f32(2u * (scales & 7u) + 1u), f32(2u * ((scales >> 3u) & 7u) + 1u));
    let high = vec4<u32>(half_at(block + 32u + 2u * s)) >> vec4<u32>(0u, 4u, 8u, 12u);
    let i = (unpack4xU8(word(block + 4u * s)) | ((high & vec4<u32>(7u)) << vec4<u32>(8u))) * 2u;
    let is_below = (high >> vec4<u32>(3u)) & vec4<u32>(1u);
    return Codes(
        eighths(grid[i.x], is_below.x), eighths(grid[i.x + 1u], is_below.x),
        eighths(grid[i.y], is_below.y), eighths(grid[i.y + 1u], is_below.y),
        eighths(grid[i.z], is_below.z), eighths(grid[i.z + 1u], is_below.z),
        eighths(grid[i.w], is_below.w), eighths(grid[i.w + 1u], is_below.w),
        d, -9.0 * d
    );
}
