@group(0) @binding(5) var<storage, read> norm_weight: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> bytes_out: array<u32>;

// The product of a row of w and a token, which it returns.
fn store(row_of_w: u32, expert: u32, token: u32, sum: f32) -> f32 {
    if row_of_w >= p.n_rows || token >= p.n_tokens {
        return 0.0;
    }
    let row = p.first_row + row_of_w;
    let at = token * stride(p.out_len) + row;
    var y = with_bias(expert, row, sum);
    if p.has_residual != 0u {
        y += residual[at];
    }
    out[at] = y;
    return y;
}
