// A copy, two vec4 a lane.
@group(0) @binding(0) var<storage, read> from_: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> to_: array<vec4<u32>>;
// Not written: what every copy has in common.
@group(0) @binding(2) var<storage, read_write> shared_: array<vec4<u32>>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = wid.x * 512u + lid;
    to_[i] = from_[i];
    to_[i + 256u] = from_[i + 256u];
}
