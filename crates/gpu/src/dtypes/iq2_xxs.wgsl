fn unpack(row: u32, g: u32) -> Elements {
    let block = row + (g / 8u) * BLOCK_BYTES;
    let at = block + 2u + 8u * (g % 8u);
    let codes = unpack4xU8(bytes4(at)) * 2u;
    let packed = bytes4(at + 4u);
    let d = f16_at(block) * (0.5 + f32(packed >> 28u)) * 0.25;
    let a = parity_signs(packed);
    let b = parity_signs(packed >> 7u);
    let c = parity_signs(packed >> 14u);
    let e = parity_signs(packed >> 21u);
    return Elements(
        d * with_signs(grid[codes.x], a), d * with_signs(grid[codes.x + 1u], a >> 4u),
        d * with_signs(grid[codes.y], b), d * with_signs(grid[codes.y + 1u], b >> 4u),
        d * with_signs(grid[codes.z], c), d * with_signs(grid[codes.z + 1u], c >> 4u),
        d * with_signs(grid[codes.w], e), d * with_signs(grid[codes.w + 1u], e >> 4u)
    );
}
