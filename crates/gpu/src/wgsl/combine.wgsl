// out[t] = the sum of what the experts of t answered, by their shares.
struct Params {
    width: u32,
    stride: u32,
    n_used: u32,
}

var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> shares: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = wid.x * 64u + lid;
    if i >= p.width {
        return;
    }
    var sum = 0.0;
    for (var k = 0u; k < p.n_used; k += 1u) {
        let pair = wid.y * p.n_used + k;
        sum += shares[pair] * x[pair * p.stride + i];
    }
    out[wid.y * p.stride + i] = sum;
}
