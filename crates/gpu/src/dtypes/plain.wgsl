// Numbers of their own: `four_at` gives the four from a byte on.
fn four(row: u32, i: u32) -> vec4<f32> {
    let v = four_at(row + i * BLOCK_BYTES);
    // Behind the end of the row stands another row, or nothing.
    return select(vec4<f32>(0.0), v, vec4<u32>(i, i + 1u, i + 2u, i + 3u) < vec4<u32>(p.row_len));
}

fn unpack(row: u32, g: u32) -> Elements {
    let i = 32u * g;
    return Elements(
        four(row, i), four(row, i + 4u), four(row, i + 8u), four(row, i + 12u),
        four(row, i + 16u), four(row, i + 20u), four(row, i + 24u), four(row, i + 28u)
    );
}
