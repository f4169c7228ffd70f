fn codes(row: u32, g: u32) -> Codes {
    let block = row + (g / 8u) * BLOCK_BYTES;
    let at = block + 2u + 8u * (g % 8u);
    let i = unpack4xU8(bytes4(at)) * 2u;
    let packed = bytes4(at + 4u);
    let d = f16_at(block) * (0.5 + f32(packed >> 28u)) * 0.25;
    let a = parity_signs(packed);
    let b = parity_signs(packed >> 7u);
    let c = parity_signs(packed >> 14u);
    let e = parity_signs(packed >> 21u);
    return Codes(
        with_signs(grid[i.x], a), with_signs(grid[i.x + 1u], a >> 4u),
        with_signs(grid[i.y], b), with_signs(grid[i.y + 1u], b >> 4u),
        with_signs(grid[i.z], c), with_signs(grid[i.z + 1u], c >> 4u),
        with_signs(grid[i.w], e), with_signs(grid[i.w + 1u], e >> 4u),
        vec2<f32>(d), vec2<f32>(0.0)
    );
}
