// Pairs of a row and one of its experts, by expert, in tiles of up to 32 of the same.
//
//   a workgroup is an expert; each lane has a share of the pairs:
//       count those of the expert, and those of experts before it
//   the expert's pairs begin behind those before; each lane's behind those of the lanes before
//
// 1. The tiles of expert e begin at e + begin / 32, which leaves room for all before them, so that
//    no expert needs to know of another's. The few that are not used are empty.
// 2. The order is that of the pairs: nothing depends on which workgroup comes first.
struct Params {
    n_pairs: u32,
    order_at: u32,
}

var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> experts: array<u32>;
// Of each tile the expert, the first place in the order, and how many; from order_at on the pairs.
@group(0) @binding(1) var<storage, read_write> groups: array<u32>;

var<workgroup> n_own: array<u32, 64>;
var<workgroup> n_before: array<u32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let expert = wid.x;
    let share = (p.n_pairs + 63u) / 64u;
    let begin_own = min(lid * share, p.n_pairs);
    let end_own = min(begin_own + share, p.n_pairs);
    var own = 0u;
    var before = 0u;
    for (var i = begin_own; i < end_own; i += 1u) {
        own += select(0u, 1u, experts[i] == expert);
        before += select(0u, 1u, experts[i] < expert);
    }
    n_own[lid] = own;
    n_before[lid] = before;
    workgroupBarrier();
    var begin = 0u;
    var n = 0u;
    var at = 0u;
    for (var i = 0u; i < 64u; i += 1u) {
        at += select(0u, n_own[i], i < lid);
        n += n_own[i];
        begin += n_before[i];
    }
    at += p.order_at + begin;
    for (var i = begin_own; i < end_own; i += 1u) {
        if experts[i] == expert {
            groups[at] = i;
            at += 1u;
        }
    }
    let first = expert + begin / 32u;
    let next = expert + 1u + (begin + n) / 32u;
    for (var tile = first + lid; tile < next; tile += 64u) {
        let done = min(32u * (tile - first), n);
        groups[3u * tile] = expert;
        groups[3u * tile + 1u] = begin + done;
        groups[3u * tile + 2u] = min(n - done, 32u);
    }
}
