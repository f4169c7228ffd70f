fn codes(row: u32, g: u32) -> Codes {
    let block = row + (g / 8u) * BLOCK_BYTES;
    let s = g % 8u;
    let code = (byte_at(block + 106u + s / 2u) >> (4u * (s % 2u))) & 15u;
    let d = f16_at(block) * (1.0 + 2.0 * f32(code));
    let high = vec4<u32>(byte_at(block + 66u + s));
    let bit = vec4<u32>(1u);
    let first = unpack4xU8(bytes4(block + 2u + 8u * s))
        | (((high >> vec4<u32>(0u, 1u, 2u, 3u)) & bit) << vec4<u32>(8u));
    let second = unpack4xU8(bytes4(block + 6u + 8u * s))
        | (((high >> vec4<u32>(4u, 5u, 6u, 7u)) & bit) << vec4<u32>(8u));
    let signs = bytes4(block + 74u + 4u * s);
    return Codes(
        with_signs(grid[first.x], signs), with_signs(grid[first.y], signs >> 4u),
        with_signs(grid[first.z], signs >> 8u), with_signs(grid[first.w], signs >> 12u),
        with_signs(grid[second.x], signs >> 16u), with_signs(grid[second.y], signs >> 20u),
        with_signs(grid[second.z], signs >> 24u), with_signs(grid[second.w], signs >> 28u),
        vec2<f32>(d), vec2<f32>(0.0)
    );
}
