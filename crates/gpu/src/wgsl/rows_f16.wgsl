// Rows of `halves.wgsl`.
@group(0) @binding(1) var<storage, read> x: array<vec4<f16>>;

fn x_len() -> u32 {
    return (p.row_len + 63u) / 64u * 16u;
}

// Where the row of x for a token begins, in vec4.
fn x_row(token: u32) -> u32 {
    return token / p.x_div * (x_len() + 2u);
}

// What the row was divided by.
fn divisor(token: u32) -> f32 {
    return f32(x[x_row(token) + x_len()].x);
}
