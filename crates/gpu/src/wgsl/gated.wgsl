#include activation
#include functions

// What becomes of a row of gate and the same row of up.
fn gated(row: u32, expert: u32, gate: f32, up: f32) -> f32 {
    return function(with_bias(expert, row, gate), with_bias(expert, p.second_at + row, up));
}

// The same, where it belongs.
fn store_gated(row: u32, expert: u32, token: u32, gate: f32, up: f32) {
    if row >= p.second_at || token >= p.n_tokens {
        return;
    }
    let at = token * stride(p.second_at) + place(row, p.second_at, p.out_is_interleaved);
    out[at] = gated(row, expert, gate, up);
}
