fn codes(row: u32, g: u32) -> Codes {
    let block = row + (g / 8u) * BLOCK_BYTES;
    let s = g % 8u;
    let packed = half_at(block + 34u + 2u * s);
    let d = f16_at(block) * f32(2u * ((packed >> 12u) & 7u) + 1u);
    let m = select(0.125, -0.125, (packed & 0x8000u) != 0u);
    let high = (vec4<u32>(packed) >> vec4<u32>(0u, 3u, 6u, 9u)) & vec4<u32>(7u);
    let i = (unpack4xU8(bytes4(block + 2u + 4u * s)) | (high << vec4<u32>(8u))) * 2u;
    return Codes(
        grid[i.x], grid[i.x + 1u], grid[i.y], grid[i.y + 1u],
        grid[i.z], grid[i.z + 1u], grid[i.w], grid[i.w + 1u],
        vec2<f32>(d), vec2<f32>(d * m)
    );
}
