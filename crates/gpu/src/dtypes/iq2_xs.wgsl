fn codes(row: u32, g: u32) -> Codes {
    let block = row + (g / 8u) * BLOCK_BYTES;
    let s = g % 8u;
    let at = block + 2u + 8u * s;
    let scales = byte_at(block + 66u + s);
    let d = f16_at(block) * 0.25 * (0.5 + vec2<f32>(f32(scales & 15u), f32(scales >> 4u)));
    let pairs = vec4<u32>(half_at(at), half_at(at + 2u), half_at(at + 4u), half_at(at + 6u));
    let i = (pairs & vec4<u32>(511u)) * 2u;
    let a = parity_signs(pairs.x >> 9u);
    let b = parity_signs(pairs.y >> 9u);
    let c = parity_signs(pairs.z >> 9u);
    let e = parity_signs(pairs.w >> 9u);
    return Codes(
        with_signs(grid[i.x], a), with_signs(grid[i.x + 1u], a >> 4u),
        with_signs(grid[i.y], b), with_signs(grid[i.y + 1u], b >> 4u),
        with_signs(grid[i.z], c), with_signs(grid[i.z + 1u], c >> 4u),
        with_signs(grid[i.w], e), with_signs(grid[i.w + 1u], e >> 4u),
        d, vec2<f32>(0.0)
    );
}
