fn unpack(row: u32, g: u32) -> Elements {
    let block = row + (g / 8u) * BLOCK_BYTES;
    let s = g % 8u;
    let scales = byte_at(block + 74u + s);
    let factor = f16_at(block) * 0.25;
    let d = factor * (0.5 + f32(scales & 15u));
    let f = factor * (0.5 + f32(scales >> 4u));
    let high = (vec4<u32>(byte_at(block + 66u + s)) >> vec4<u32>(0u, 2u, 4u, 6u)) & vec4<u32>(3u);
    let codes = (unpack4xU8(bytes4(block + 2u + 4u * s)) | (high << vec4<u32>(8u))) * 2u;
    let signs = bytes4(block + 34u + 4u * s);
    return Elements(
        d * with_signs(grid[codes.x], signs), d * with_signs(grid[codes.x + 1u], signs >> 4u),
        d * with_signs(grid[codes.y], signs >> 8u), d * with_signs(grid[codes.y + 1u], signs >> 12u),
        f * with_signs(grid[codes.z], signs >> 16u), f * with_signs(grid[codes.z + 1u], signs >> 20u),
        f * with_signs(grid[codes.w], signs >> 24u), f * with_signs(grid[codes.w + 1u], signs >> 28u)
    );
}
