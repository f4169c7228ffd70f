fn unpack(row: u32, g: u32) -> Elements {
    let block = row + (g / 8u) * BLOCK_BYTES;
    let s = g % 8u;
    let at = block + 2u + 8u * s;
    let scales = byte_at(block + 66u + s);
    let factor = f16_at(block) * 0.25;
    let d = factor * (0.5 + f32(scales & 15u));
    let f = factor * (0.5 + f32(scales >> 4u));
    let pairs = vec4<u32>(half_at(at), half_at(at + 2u), half_at(at + 4u), half_at(at + 6u));
    let codes = (pairs & vec4<u32>(511u)) * 2u;
    let a = parity_signs(pairs.x >> 9u);
    let b = parity_signs(pairs.y >> 9u);
    let c = parity_signs(pairs.z >> 9u);
    let e = parity_signs(pairs.w >> 9u);
    return Elements(
        d * with_signs(grid[codes.x], a), d * with_signs(grid[codes.x + 1u], a >> 4u),
        d * with_signs(grid[codes.y], b), d * with_signs(grid[codes.y + 1u], b >> 4u),
        f * with_signs(grid[codes.z], c), f * with_signs(grid[codes.z + 1u], c >> 4u),
        f * with_signs(grid[codes.w], e), f * with_signs(grid[codes.w + 1u], e >> 4u)
    );
}
