// The experts of each token, the best first, and their shares. A lane is a token.
struct Params {
    n_rows: u32,
    n_experts: u32,
    stride: u32,
    n_used: u32,
    normalizes: u32,
}

var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> scores: array<f32>;
@group(0) @binding(1) var<storage, read_write> experts: array<u32>;
@group(0) @binding(2) var<storage, read_write> shares: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let row = wid.x * 64u + lid;
    if row >= p.n_rows {
        return;
    }
    let at = row * p.stride;
    var highest = scores[at];
    for (var i = 1u; i < p.n_experts; i += 1u) {
        highest = max(highest, scores[at + i]);
    }
    var total = 0.0;
    for (var i = 0u; i < p.n_experts; i += 1u) {
        total += exp(scores[at + i] - highest);
    }
    var used = 0.0;
    var last = 0u;
    var last_score = 0.0;
    for (var k = 0u; k < p.n_used; k += 1u) {
        // The next in the order of falling scores, the first of equals first.
        var best = p.n_experts;
        var best_score = 0.0;
        for (var i = 0u; i < p.n_experts; i += 1u) {
            let score = scores[at + i];
            let is_after = k == 0u || score < last_score || (score == last_score && i > last);
            if is_after && (best == p.n_experts || score > best_score) {
                best = i;
                best_score = score;
            }
        }
        // Where no score is a number, any expert will do, but there must be one.
        best = min(best, p.n_experts - 1u);
        let share = exp(best_score - highest) / total;
        experts[row * p.n_used + k] = best;
        shares[row * p.n_used + k] = share;
        used += share;
        last = best;
        last_score = best_score;
    }
    if p.normalizes != 0u {
        for (var k = 0u; k < p.n_used; k += 1u) {
            shares[row * p.n_used + k] /= used;
        }
    }
}
