fn codes(row: u32, g: u32) -> Codes {
    let block = row + (g / 8u) * BLOCK_BYTES;
    let s = g % 8u;
    let first = unpack4xU8(bytes4(block + 2u + 8u * s));
    let second = unpack4xU8(bytes4(block + 6u + 8u * s));
    let packed = bytes4(block + 66u + 4u * s);
    let d = f16_at(block) * (0.5 + f32(packed >> 28u)) * 0.5;
    let a = parity_signs(packed);
    let b = parity_signs(packed >> 7u);
    let c = parity_signs(packed >> 14u);
    let e = parity_signs(packed >> 21u);
    return Codes(
        with_signs(grid[first.x], a), with_signs(grid[first.y], a >> 4u),
        with_signs(grid[first.z], b), with_signs(grid[first.w], b >> 4u),
        with_signs(grid[second.x], c), with_signs(grid[second.y], c >> 4u),
        with_signs(grid[second.z], e), with_signs(grid[second.w], e >> 4u),
        vec2<f32>(d), vec2<f32>(0.0)
    );
}
