// What the products of matrices have in common: out[t] = w * x[t] (+ bias) (+ residual[t]).
//
// Up to three matrices of the same type are in w, and each has an `out` of its own; or a part of one
// matrix. With experts, there are these of each, and a token is a pair of a row and one of its
// experts. Rows count over all matrices.
struct Params {
    n_rows: u32, // of all matrices in w; of each expert
    row_len: u32,
    row_bytes: u32,
    first_row: u32, // of the part of the matrix
    n_tokens: u32,
    w_at: u32, // byte of w that the first matrix begins with
    second_gap: u32, // bytes between the first matrix and the second, modulo 2^32, and the third
    third_gap: u32,
    expert_bytes: u32, // from the matrices of an expert to those of the next
    second_at: u32, // where the rows of the second matrix begin, and of the third
    third_at: u32,
    out_len: u32, // rows of all matrices
    has_bias: u32,
    has_residual: u32,
    first_expert: u32,
    n_experts: u32,
    x_div: u32, // tokens for each row of x
    order_at: u32, // of the tokens by expert
    x_is_interleaved: u32,
    out_is_interleaved: u32, // of gate and up
    function: u32, // of these
    first: f32, // its numbers
    second: f32,
    x_has_norm: u32, // whether rows of x are to be divided by theirs
    eps: f32, // of this
}

var<immediate> p: Params;
#include words
#include rows
@group(0) @binding(2) var<storage, read> bias: array<f32>; // [n_experts][out_len]
@group(0) @binding(3) var<storage, read> residual: array<f32>;
@group(0) @binding(4) var<storage, read> grid: array<u32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

#include interleave
#include weight
#include unpack

// From one row of a buffer to the next: whole vectors of four.
fn stride(width: u32) -> u32 {
    return (width + 3u) / 4u * 4u;
}

// Where a row begins in w, in bytes; of the first expert.
fn w_row(row: u32) -> u32 {
    return p.w_at + row * p.row_bytes
        + select(0u, p.second_gap, row >= p.second_at)
        + select(0u, p.third_gap, row >= p.third_at);
}

// A sum with its bias; the row counts over all matrices.
fn with_bias(expert: u32, row: u32, sum: f32) -> f32 {
    if p.has_bias == 0u {
        return sum;
    }
    return sum + bias[expert * p.out_len + row];
}

#include store
