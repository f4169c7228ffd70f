// out = x / sqrt(mean(x^2) + eps) * weight, for each piece of a row by itself.
struct Params {
    len: u32, // of a piece
    stride: u32,
    eps: f32,
    is_interleaved: u32, // out
}

var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

#include block_sum
#include interleave

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = wid.y * p.stride + wid.x * p.len;
    var squares = 0.0;
    for (var i = lid; i < p.len; i += LANES) {
        let v = x[at + i];
        squares += v * v;
    }
    let scale = 1.0 / sqrt(block_sum(squares, lid) / f32(p.len) + p.eps);
    for (var i = lid; i < p.len; i += LANES) {
        out[at + place(i, p.len, p.is_interleaved)] = x[at + i] * scale * weight[i];
    }
}
