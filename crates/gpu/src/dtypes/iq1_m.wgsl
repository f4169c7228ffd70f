fn unpack(row: u32, g: u32) -> Elements {
    let block = row + (g / 8u) * BLOCK_BYTES;
    let s = g % 8u;
    let a = word(block + 48u);
    let b = word(block + 52u);
    let bits = ((a >> 12u) & 0x000fu) | ((a >> 24u) & 0x00f0u) | ((b >> 4u) & 0x0f00u) | ((b >> 16u) & 0xf000u);
    let factor = unpack2x16float(bits).x;
    let scales = half_at(block + 48u + 2u * (s / 2u)) >> (6u * (s % 2u));
    let d = factor * f32(2u * (scales & 7u) + 1u);
    let e = factor * f32(2u * ((scales >> 3u) & 7u) + 1u);
    let high = vec4<u32>(half_at(block + 32u + 2u * s)) >> vec4<u32>(0u, 4u, 8u, 12u);
    let codes = (unpack4xU8(word(block + 4u * s)) | ((high & vec4<u32>(7u)) << vec4<u32>(8u))) * 2u;
    let m = vec4<f32>(0.125) - 0.25 * vec4<f32>((high >> vec4<u32>(3u)) & vec4<u32>(1u));
    return Elements(
        d * (signed4(grid[codes.x]) + m.x), d * (signed4(grid[codes.x + 1u]) + m.x),
        d * (signed4(grid[codes.y]) + m.y), d * (signed4(grid[codes.y + 1u]) + m.y),
        e * (signed4(grid[codes.z]) + m.z), e * (signed4(grid[codes.z + 1u]) + m.z),
        e * (signed4(grid[codes.w]) + m.w), e * (signed4(grid[codes.w + 1u]) + m.w)
    );
}
