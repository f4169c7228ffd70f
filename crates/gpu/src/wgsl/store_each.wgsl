@group(0) @binding(5) var<storage, read> experts: array<u32>;
@group(0) @binding(7) var<storage, read_write> second_out: array<f32>;
@group(0) @binding(8) var<storage, read_write> third_out: array<f32>;

// The product of a row of w and a token.
fn store(row_of_w: u32, expert: u32, token: u32, sum: f32) {
    if row_of_w >= p.n_rows || token >= p.n_tokens {
        return;
    }
    let row = p.first_row + row_of_w;
    var y = with_bias(expert, row, sum);
    if row >= p.third_at {
        third_out[token * stride(p.out_len - p.third_at) + row - p.third_at] = y;
    } else if row >= p.second_at {
        second_out[token * stride(p.third_at - p.second_at) + row - p.second_at] = y;
    } else {
        let at = token * stride(p.second_at) + row;
        if p.has_residual != 0u {
            y += residual[at];
        }
        out[at] = y;
    }
}
