// out[i] = x[row of the i-th wanted output].
struct Params {
    stride: u32, // in vec4
    outputs_at: u32,
}

var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> batch: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = wid.x * 64u + lid;
    if i < p.stride {
        out[wid.y * p.stride + i] = x[batch[p.outputs_at + wid.y] * p.stride + i];
    }
}
