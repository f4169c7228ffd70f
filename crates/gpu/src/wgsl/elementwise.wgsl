// out[t][i] = a function of a[t][i] and b[t][i], or of b[t] alone.
struct Params {
    width: u32,
    stride: u32,
    b_stride: u32,
    first: f32, // numbers of the function
    second: f32,
    is_interleaved: u32, // out
}

var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

#include interleave
#include activation
#include function

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = wid.x * 64u + lid;
    if i < p.width {
        let at = wid.y * p.stride + i;
        let y = function(a[at], b[wid.y * p.b_stride + b_index(i)]);
        out[wid.y * p.stride + place(i, p.width, p.is_interleaved)] = y;
    }
}
