fn codes(row: u32, g: u32) -> Codes {
    let block = row + (g / 8u) * BLOCK_BYTES;
    let s = g % 8u;
    let scales = byte_at(block + 74u + s);
    let d = f16_at(block) * 0.25 * (0.5 + vec2<f32>(f32(scales & 15u), f32(scales >> 4u)));
    let high = (vec4<u32>(byte_at(block + 66u + s)) >> vec4<u32>(0u, 2u, 4u, 6u)) & vec4<u32>(3u);
    let i = (unpack4xU8(bytes4(block + 2u + 4u * s)) | (high << vec4<u32>(8u))) * 2u;
    let signs = bytes4(block + 34u + 4u * s);
    return Codes(
        with_signs(grid[i.x], signs), with_signs(grid[i.x + 1u], signs >> 4u),
        with_signs(grid[i.y], signs >> 8u), with_signs(grid[i.y + 1u], signs >> 12u),
        with_signs(grid[i.z], signs >> 16u), with_signs(grid[i.z + 1u], signs >> 20u),
        with_signs(grid[i.w], signs >> 24u), with_signs(grid[i.w + 1u], signs >> 28u),
        d, vec2<f32>(0.0)
    );
}
