#include activation
#include functions

// What becomes of a row of gate and the same row of up.
fn store_gated(row: u32, expert: u32, token: u32, gate: f32, up: f32) {
    if row >= p.second_at || token >= p.n_tokens {
        return;
    }
    let a = with_bias(expert, row, gate);
    let b = with_bias(expert, p.second_at + row, up);
    out[token * stride(p.second_at) + place(row, p.second_at, p.out_is_interleaved)] = function(a, b);
}
