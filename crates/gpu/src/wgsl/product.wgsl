// What the products of a matrix have in common: out[t] = w * x[t] (+ bias) (+ residual[t]).
struct Params {
    n_rows: u32,
    row_len: u32,
    row_bytes: u32,
    first_row: u32,
    n_tokens: u32,
    x_stride: u32, // in vec4
    out_stride: u32,
    has_bias: u32,
    has_residual: u32,
    first_expert: u32,
    n_experts: u32,
    x_div: u32, // tokens for each row of x
    out_len: u32, // rows of the whole matrix
}

var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> w: array<u32>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> residual: array<f32>;
@group(0) @binding(4) var<storage, read> grid: array<u32>;
@group(0) @binding(5) var<storage, read> experts: array<u32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

#include weight
#include unpack

// Four elements of the row of x at `base`; behind the row's end zeros.
fn x4(base: u32, i: u32) -> vec4<f32> {
    if IS_PLAIN && 4u * i >= p.row_len {
        return vec4<f32>(0.0);
    }
    return x[base + i];
}

// The sum of a row, whose bias lies at `bias_at`, and a token.
fn store(row: u32, bias_at: u32, token: u32, sum: f32) {
    if row >= p.n_rows || token >= p.n_tokens {
        return;
    }
    let at = token * p.out_stride + p.first_row + row;
    var y = sum;
    if p.has_bias != 0u {
        y += bias[bias_at + row];
    }
    if p.has_residual != 0u {
        y += residual[at];
    }
    out[at] = y;
}
