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
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

#include interleave

@compute @workgroup_size(64)
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
    for (var e = lid; e < p.head_dim; e += 64u) {
        var sum = 0.0;
        for (var s = 0u; s < p.n_splits; s += 1u) {
            let part = at + s * part_len;
            sum += parts[part + 4u + e] * exp(max(parts[part] - highest, -100.0));
        }
        let to = place(head * p.head_dim + e, p.n_heads * p.head_dim, p.is_interleaved);
        out[wid.y * p.out_stride + to] = sum / total;
    }
}
