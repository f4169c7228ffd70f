// One head of one token from its parts over spans of positions: each has a maximum, a sum and a
// weighted sum of values.
struct Params {
    head_dim: u32,
    n_heads: u32,
    out_stride: u32,
    n_splits: u32,
    has_sinks: u32,
    is_interleaved: u32, // out
}

var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> parts: array<f32>;
@group(0) @binding(1) var<storage, read> sinks: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<Out>;

#include interleave
#include write_head

const LANES = 64u;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let head = wid.x;
    let part_len = (p.head_dim + 3u) / 4u * 4u + 4u;
    let at = (wid.y * p.n_heads + head) * p.n_splits * part_len;
    var highest = parts[at];
    for (var s = 1u; s < p.n_splits; s += 1u) {
        highest = max(highest, parts[at + s * part_len]);
    }
    var total = 0.0;
    if p.has_sinks != 0u {
        highest = max(highest, sinks[head]);
        total = exp(sinks[head] - highest);
    }
    for (var s = 0u; s < p.n_splits; s += 1u) {
        let part = at + s * part_len;
        total += parts[part + 1u] * exp(max(parts[part] - highest, -100.0));
    }
    let is_mine = 4u * lid < p.head_dim;
    let from_ = at + 4u + 4u * select(0u, lid, is_mine);
    var sum = vec4<f32>(0.0);
    for (var s = 0u; s < p.n_splits; s += 1u) {
        let v = from_ + s * part_len;
        let factor = exp(max(parts[at + s * part_len] - highest, -100.0));
        sum += factor * vec4<f32>(parts[v], parts[v + 1u], parts[v + 2u], parts[v + 3u]);
    }
    write_head(wid.y, head, lid, sum / total, is_mine, lid);
}
