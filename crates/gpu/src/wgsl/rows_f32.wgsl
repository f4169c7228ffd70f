@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;

// Where the row of x for a token begins, in vec4.
fn x_row(token: u32) -> u32 {
    return token / p.x_div * (stride(p.row_len) / 4u);
}

// The k-th four elements of group g of the row of x at `base`; behind the row's end zeros.
fn x4(base: u32, g: u32, k: u32) -> vec4<f32> {
    if IS_PLAIN && 32u * g + 4u * k >= p.row_len {
        return vec4<f32>(0.0);
    }
    let at = x_at(g);
    return x[base + at.x + k * at.y];
}

// Where group g of a row of x begins, and how far it is from four elements to the next, in vec4.
fn x_at(g: u32) -> vec2<u32> {
    if p.x_is_interleaved == 0u {
        return vec2<u32>(8u * g, 1u);
    }
    return vec2<u32>(g / 32u * 256u + g % 32u, min(p.row_len / 32u - g / 32u * 32u, 32u));
}
