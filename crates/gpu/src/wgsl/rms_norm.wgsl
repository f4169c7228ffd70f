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
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

#include block_sum
#include interleave

// Behind the piece zero.
fn element(at: u32, i: u32) -> f32 {
    return select(0.0, x[at + min(i, p.len - 1u)], i < p.len);
}

@compute @workgroup_size(256)
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
    for (var i = lid; i < p.len; i += 4u * LANES) {
#for u 4
        let y$u = element(at, i + $uu * LANES) * scale * weight[min(i + $uu * LANES, p.len - 1u)];
#end
#for u 4
        if i + $uu * LANES < p.len {
            out[at + place(i + $uu * LANES, p.len, p.is_interleaved)] = y$u;
        }
#end
    }
}
