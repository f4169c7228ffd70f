// Rows of `bytes.wgsl`.
@group(0) @binding(1) var<storage, read> x: array<vec4<u32>>;

// Where the row of x for a token begins, in vec4.
fn x_row(token: u32) -> u32 {
    return token / p.x_div * (p.row_len / 32u * 5u);
}

// The product of a group of w and one of x: its high bytes and its low ones, and its factors.
fn group_product(e: Codes, a: vec4<u32>, b: vec4<u32>, c: vec4<u32>, d: vec4<u32>, f: vec4<f32>) -> f32 {
    let first = 256 * (dot4I8Packed(e.c0, a.x) + dot4I8Packed(e.c1, a.y)
            + dot4I8Packed(e.c2, a.z) + dot4I8Packed(e.c3, a.w))
        + (dot4I8Packed(e.c0, c.x) + dot4I8Packed(e.c1, c.y)
            + dot4I8Packed(e.c2, c.z) + dot4I8Packed(e.c3, c.w));
    let second = 256 * (dot4I8Packed(e.c4, b.x) + dot4I8Packed(e.c5, b.y)
            + dot4I8Packed(e.c6, b.z) + dot4I8Packed(e.c7, b.w))
        + (dot4I8Packed(e.c4, d.x) + dot4I8Packed(e.c5, d.y)
            + dot4I8Packed(e.c6, d.z) + dot4I8Packed(e.c7, d.w));
    return f.x * (e.d.x * f32(first) + e.d.y * f32(second)) + (e.m.x * f.y + e.m.y * f.z);
}
