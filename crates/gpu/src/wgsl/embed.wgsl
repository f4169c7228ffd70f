// out[t] = row of the token, for the tokens whose rows lie in this part of the table.
struct Params {
    row_len: u32,
    row_bytes: u32,
    first_token: u32, // of the table's part
    n_tokens: u32, // in the table's part
    tokens_at: u32,
    out_stride: u32, // in vec4
    w_at: u32, // byte that the table's part begins with
}

var<immediate> p: Params;
#include words
@group(0) @binding(1) var<storage, read> grid: array<u32>;
@group(0) @binding(2) var<storage, read> batch: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4<f32>>;

#include weight
#include unpack

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let g = wid.x * 64u + lid;
    let token = batch[p.tokens_at + wid.y];
    if 32u * g >= p.row_len || token < p.first_token || token >= p.first_token + p.n_tokens {
        return;
    }
    let e = unpack(p.w_at + (token - p.first_token) * p.row_bytes, g);
    let at = wid.y * p.out_stride + 8u * g;
#for k 8
    if 32u * g + $ku * 4u < p.row_len {
        out[at + $ku] = e.v$k;
    }
#end
}
