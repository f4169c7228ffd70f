// out = x / sqrt(mean(x^2) + eps) * weight, for each piece of a row by itself.
// Several elements a lane at once, which do not wait for each other.
struct Params {
    len: u32, // of a piece
    stride: u32,
    eps: f32,
    is_interleaved: u32, // out
}

var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<Out>;

#include block_sum
#include interleave
#include write_normed

// Behind the piece zero.
fn element(at: u32, i: u32) -> f32 {
    return select(0.0, x[at + min(i, p.len - 1u)], i < p.len);
}

fn normed(at: u32, i: u32, mean: f32, scale: f32) -> f32 {
    return element(at, i) * scale * weight[min(i, p.len - 1u)];
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = wid.y * p.stride + wid.x * p.len;
    var squares = 0.0;
    for (var i = lid; i < p.len; i += 8u * LANES) {
#for u 8
        let v$u = element(at, i + $uu * LANES);
#end
#for u 8
        squares += v$u * v$u;
#end
    }
    let scale = 1.0 / sqrt(block_sum(squares, lid) / f32(p.len) + p.eps);
    write_normed(at, 0.0, scale, lid);
}
