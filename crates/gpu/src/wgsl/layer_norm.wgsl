// out = (x - m) / sqrt(mean((x - m)^2) + eps) * weight + bias, with m the mean of x.
struct Params {
    len: u32,
    stride: u32,
    eps: f32,
    is_interleaved: u32, // out
}

var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<Out>;

#include block_sum
#include interleave
#include write_normed

// Behind the row zero.
fn normed(at: u32, i: u32, mean: f32, scale: f32) -> f32 {
    let e = min(i, p.len - 1u);
    return select(0.0, (x[at + e] - mean) * scale * weight[e] + bias[e], i < p.len);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = wid.y * p.stride;
    var total = 0.0;
    for (var i = lid; i < p.len; i += LANES) {
        total += x[at + i];
    }
    let mean = block_sum(total, lid) / f32(p.len);
    var squares = 0.0;
    for (var i = lid; i < p.len; i += LANES) {
        let v = x[at + i] - mean;
        squares += v * v;
    }
    let scale = 1.0 / sqrt(block_sum(squares, lid) / f32(p.len) + p.eps);
    write_normed(at, mean, scale, lid);
}
