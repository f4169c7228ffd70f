// Rows as bytes (bytes.wgsl), each 1024 elements by a workgroup.
struct Params {
    row_len: u32, // a multiple of 32
    x_is_interleaved: u32,
}

var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;

#include interleave
#include bytes

const LANES = 256u;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = wid.x * LANES + lid;
    let n_groups = p.row_len / 32u;
    var v = vec4<f32>(0.0);
    if i < 8u * n_groups {
        v = x[wid.y * 8u * n_groups + place(4u * i, p.row_len, p.x_is_interleaved) / 4u];
    }
    write_bytes(4u * wid.y * bytes_stride(n_groups), n_groups, i, v, lid);
}
